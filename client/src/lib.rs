//! Client library of Holdfast.
