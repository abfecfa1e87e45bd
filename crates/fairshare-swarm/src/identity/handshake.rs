//! The three messages that prove both keys of a connection.
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r

use super::message::Message;
use super::session::Session;
use super::{CONTEXT, VERSION};
use crate::metainfo::InfoHash;
use crate::peer_wire::PeerId;
use fairshare_crypto::sha256;
use fairshare_crypto::{EphemeralSecret, PublicKey, Rng, SecretKey, Signature, hkdf_sha256_64};
use fairshare_wire::{ReadError, Reader, Writer};
use thiserror::Error;

const TRANSCRIPT: u8 = 1;
const ANSWER_TEXT: u8 = 2;
const PROOF_TEXT: u8 = 3;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A message out of turn, or a second run.
    #[error("an identity message out of turn")]
    OutOfTurn,
    /// The peer's key is ours: we talk to ourselves, or somebody reflects our messages.
    #[error("the peer shows our own key")]
    OwnKey,
    /// The key has not the form of a key.
    #[error("the peer's key has not the form of a key")]
    KeyForm,
    /// The key agreement gives nothing.
    #[error("the key agreement is all zero")]
    Agreement,
    /// The signature does not verify.
    #[error("the peer's signature does not verify")]
    Signature,
}

impl HandshakeError {
    /// Whether the connection must be closed; after the other failures it goes on without identities.
    pub const fn closes(self) -> bool {
        matches!(self, Self::OutOfTurn | Self::OwnKey)
    }

    /// The failure's name among the counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OutOfTurn => "identity out of turn",
            Self::OwnKey => "identity own key",
            Self::KeyForm => "identity key form",
            Self::Agreement => "identity agreement",
            Self::Signature => "identity signature",
        }
    }
}

/// What ties a handshake to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The hash of the BitTorrent handshake.
    pub info_hash: InfoHash,
    /// Peer id of the side that opened the connection.
    pub initiator: PeerId,
    /// Peer id of the other side.
    pub responder: PeerId,
    /// SHA-256 of the secret of the encryption below, or zeros on plain connections.
    pub binding: [u8; 32],
}

/// The key and the fresh values of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// A fresh X25519 public key.
    pub ephemeral: [u8; 32],
    /// The identity.
    pub key: PublicKey,
}

impl Hello {
    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        let (nonce, ephemeral) = (input.array()?, input.array()?);
        Ok(Self { nonce, ephemeral, key: PublicKey::from_bytes(input.array()?) })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u8(VERSION).bytes(&self.nonce).bytes(&self.ephemeral).bytes(self.key.as_bytes());
    }
}

/// The hash over everything both sides said: the name of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transcript(pub [u8; 32]);

impl Transcript {
    /// The transcript of a handshake on `channel`.
    pub fn of(channel: &Channel, initiator: &Hello, responder: &Hello) -> Self {
        let mut text = Writer::new();
        text.bytes(CONTEXT).u8(TRANSCRIPT).bytes(&channel.info_hash.0);
        text.bytes(&channel.initiator.0).bytes(&channel.responder.0);
        text.bytes(&initiator.nonce).bytes(&responder.nonce);
        text.bytes(&initiator.ephemeral).bytes(&responder.ephemeral);
        text.bytes(initiator.key.as_bytes()).bytes(responder.key.as_bytes());
        text.bytes(&channel.binding);
        Self(sha256(text.as_slice()))
    }

    /// What the responder signs.
    pub fn answer_text(&self) -> Vec<u8> {
        self.signed_text(ANSWER_TEXT, b'R')
    }

    /// What the initiator signs.
    pub fn proof_text(&self) -> Vec<u8> {
        self.signed_text(PROOF_TEXT, b'I')
    }

    fn signed_text(&self, purpose: u8, role: u8) -> Vec<u8> {
        Writer::new().bytes(CONTEXT).u8(purpose).u8(role).bytes(&self.0).finish()
    }
}

/// The keys that seal counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MacKeys {
    /// For counts of the initiator.
    pub initiator: [u8; 32],
    /// For counts of the responder.
    pub responder: [u8; 32],
}

impl MacKeys {
    /// The keys of a session with this key agreement.
    pub fn derive(transcript: &Transcript, agreed: &[u8; 32]) -> Self {
        let info = [CONTEXT.as_slice(), b" mac"].concat();
        let both = hkdf_sha256_64(&transcript.0, agreed, &info);
        let mut keys = Self { initiator: [0; 32], responder: [0; 32] };
        keys.initiator.copy_from_slice(&both[..32]);
        keys.responder.copy_from_slice(&both[32..]);
        keys
    }
}

/// The secret and fresh values of our side, for one connection.
#[derive(Clone)]
pub struct HelloSecrets {
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// A fresh secret.
    pub ephemeral: EphemeralSecret,
}

impl HelloSecrets {
    /// New ones.
    pub fn generate(rng: &mut Rng) -> Self {
        Self { nonce: rng.bytes(), ephemeral: EphemeralSecret::generate(rng) }
    }

    fn hello(&self, key: PublicKey) -> Hello {
        Hello { nonce: self.nonce, ephemeral: self.ephemeral.public(), key }
    }
}

/// What to do after a message of the peer.
#[derive(Debug)]
pub enum Progress {
    /// Send this and wait.
    Reply(Message),
    /// Both keys are proven; send the reply, if there is one.
    Verified(Option<Message>, Box<Session>),
}

/// One run of the handshake. There is exactly one on a connection.
pub struct Handshake {
    channel: Channel,
    secrets: HelloSecrets,
    ours: Hello,
    state: State,
}

enum State {
    /// We respond and wait for the first message.
    Hello,
    /// We opened and wait for the second.
    Answer,
    /// We responded and wait for the third.
    Proof { peer: PublicKey, transcript: Transcript, keys: MacKeys },
    /// Verified or failed.
    Over,
}

impl Handshake {
    /// The run of the side that opened the connection, and its first message.
    pub fn initiate(channel: Channel, key: &SecretKey, secrets: HelloSecrets) -> (Self, Message) {
        let ours = secrets.hello(key.public());
        (Self { channel, secrets, ours, state: State::Answer }, Message::Hello(ours))
    }

    /// The run of the other side.
    pub fn respond(channel: Channel, key: &SecretKey, secrets: HelloSecrets) -> Self {
        let ours = secrets.hello(key.public());
        Self { channel, secrets, ours, state: State::Hello }
    }

    /// Whether the run is over, well or badly.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes a message of the handshake. Every error ends the run. `key` is the one it began with.
    pub fn receive(&mut self, key: &SecretKey, message: &Message) -> Result<Progress, HandshakeError> {
        match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::Hello, Message::Hello(theirs)) => self.answer(key, theirs),
            (State::Answer, Message::Answer(theirs, signature)) => self.prove(key, theirs, signature),
            (State::Proof { peer, transcript, keys }, Message::Proof(signature)) => {
                if !peer.verify(&transcript.proof_text(), signature) {
                    return Err(HandshakeError::Signature);
                }
                let session =
                    Session::new(peer, transcript, self.channel.info_hash, keys.responder, keys.initiator);
                Ok(Progress::Verified(None, Box::new(session)))
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }

    fn answer(&mut self, key: &SecretKey, theirs: &Hello) -> Result<Progress, HandshakeError> {
        let transcript = Transcript::of(&self.channel, theirs, &self.ours);
        let keys = self.agree(theirs, &transcript)?;
        self.state = State::Proof { peer: theirs.key, transcript, keys };
        Ok(Progress::Reply(Message::Answer(self.ours, key.sign(&transcript.answer_text()))))
    }

    fn prove(
        &self,
        key: &SecretKey,
        theirs: &Hello,
        signature: &Signature,
    ) -> Result<Progress, HandshakeError> {
        let transcript = Transcript::of(&self.channel, &self.ours, theirs);
        let keys = self.agree(theirs, &transcript)?;
        if !theirs.key.verify(&transcript.answer_text(), signature) {
            return Err(HandshakeError::Signature);
        }
        let proof = Message::Proof(key.sign(&transcript.proof_text()));
        let info_hash = self.channel.info_hash;
        let session = Session::new(theirs.key, transcript, info_hash, keys.initiator, keys.responder);
        Ok(Progress::Verified(Some(proof), Box::new(session)))
    }

    fn agree(&self, theirs: &Hello, transcript: &Transcript) -> Result<MacKeys, HandshakeError> {
        if theirs.key == self.ours.key {
            return Err(HandshakeError::OwnKey);
        }
        if !theirs.key.is_valid() {
            return Err(HandshakeError::KeyForm);
        }
        let agreed = self.secrets.ephemeral.agree(&theirs.ephemeral).ok_or(HandshakeError::Agreement)?;
        Ok(MacKeys::derive(transcript, &agreed))
    }
}
