//! What every bus, every connector and every registry must do, run against each of them.

mod connector;
