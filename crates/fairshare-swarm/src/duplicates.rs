//! Two connections with one peer: which one stays. Both ends must come to the same answer without talking.
//= spec/swarm.md#2-handshake-bep-3

use crate::connection::{Class, Connection, Greeting};
use crate::context::Context;
use crate::event::{CloseReason, StreamId};
use crate::peer_wire::PeerId;
use crate::torrent::Torrent;
use fairshare_crypto::PublicKey;
use fairshare_wire::Now;

impl Torrent {
    /// Whether a new connection stays beside or instead of one with the same peer id; a loser is closed.
    pub(crate) fn keeps_over_same_peer(&mut self, cx: &mut Context, now: Now, new: &Greeting) -> bool {
        let same = self.connections.values().find(|old| old.peer_id == new.peer_id);
        let Some(old) = same else { return true };
        let verified = old.class() == Class::Identity;
        if verified || !newer_wins(self.peer_id, new.peer_id, old.incoming, new.incoming) {
            return false;
        }
        let loser = old.id;
        self.close(cx, now, loser, CloseReason::Duplicate);
        true
    }

    /// Whether a connection that just proved `key` stays beside or instead of another session with that key; a
    /// loser is closed.
    pub(crate) fn keeps_over_same_key(
        &mut self,
        cx: &mut Context,
        now: Now,
        id: StreamId,
        key: &PublicKey,
    ) -> bool {
        let Some(new) = self.connections.get(&id) else { return false };
        let is_same = |old: &&Connection| old.id != id && old.key().as_ref() == Some(key);
        let Some(old) = self.connections.values().find(is_same) else { return true };
        // Peer ids are fresh at every start: another one means that the peer was restarted, and that the older
        // connection is dead although nobody told us.
        let restarted = old.peer_id != new.peer_id;
        let new_stays = restarted || newer_wins(self.peer_id, new.peer_id, old.incoming, new.incoming);
        let loser = if new_stays { old.id } else { id };
        self.close(cx, now, loser, CloseReason::Duplicate);
        new_stays
    }
}

/// Whether the newer of two connections stays: the one that the larger peer id opened.
fn newer_wins(ours: PeerId, theirs: PeerId, old_incoming: bool, new_incoming: bool) -> bool {
    if old_incoming == new_incoming {
        return false;
    }
    let opened_by = |incoming: bool| if incoming { theirs } else { ours };
    opened_by(new_incoming) > opened_by(old_incoming)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#2-handshake-bep-3
    #[test]
    fn both_ends_keep_the_same_connection() {
        let (small, large) = (PeerId([1; 20]), PeerId([2; 20]));
        // The connection opened by `small` is older at one end and newer at the other: all four views.
        assert!(newer_wins(small, large, false, true));
        assert!(!newer_wins(small, large, true, false));
        assert!(newer_wins(large, small, true, false));
        assert!(!newer_wins(large, small, false, true));
        assert!(!newer_wins(small, large, true, true), "of two by the same end the older one stays");
    }
}
