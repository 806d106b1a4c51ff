//! Many runs, and their scoreboard.
