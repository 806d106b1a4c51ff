//! Kill-and-reopen loops: random operations, a crash at a random operation of the file layer, and a
//! model that knows what must be there afterwards.
