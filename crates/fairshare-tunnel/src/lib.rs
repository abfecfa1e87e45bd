//! Circuits: originators, relays, exits and hidden services of the anonymous overlay.
