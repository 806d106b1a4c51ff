//! Histories in Jepsen's form, for Knossos and Elle.
