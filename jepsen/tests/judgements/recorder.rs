//! Writes histories event by event.

use holdfast_jepsen::history::{
    ClientEvent, Data, Event, FaultEvent, History, Kind, NodeId, Op, Phase, Reply, Value, Version,
    What,
};

/// A history in the making. Events lie a microsecond apart.
#[derive(Default)]
pub struct Recorder {
    events: Vec<Event>,
}

impl Recorder {
    fn push(&mut self, what: What) -> u64 {
        let index = self.events.len() as u64;
        self.events.push(Event {
            index,
            time: 1_000 * index,
            what,
        });
        index
    }

    pub fn client(
        &mut self,
        process: u64,
        node: NodeId,
        kind: Kind,
        op: &Op,
        reply: Option<Reply>,
    ) -> u64 {
        let error = matches!(kind, Kind::Fail | Kind::Info).then(|| "simulated".to_owned());
        self.push(What::Client(ClientEvent {
            process,
            node,
            kind,
            op: op.clone(),
            reply,
            error,
            last: false,
        }))
    }

    pub fn invoke(&mut self, process: u64, op: &Op) -> u64 {
        self.client(process, 0, Kind::Invoke, op, None)
    }

    pub fn ok(&mut self, process: u64, op: &Op, revision: i64, data: Data) -> u64 {
        self.client(process, 0, Kind::Ok, op, Some(Reply { revision, data }))
    }

    pub fn fail(&mut self, process: u64, op: &Op) -> u64 {
        self.client(process, 0, Kind::Fail, op, None)
    }

    pub fn info(&mut self, process: u64, op: &Op) -> u64 {
        self.client(process, 0, Kind::Info, op, None)
    }

    /// Invocation and answer, with nothing between them; gives the index of the answer.
    pub fn done(&mut self, process: u64, op: &Op, revision: i64, data: Data) -> u64 {
        self.invoke(process, op);
        self.ok(process, op, revision, data)
    }

    pub fn fault(&mut self, nemesis: &str, fault: u64, phase: Phase, nodes: &[NodeId]) -> u64 {
        self.push(What::Fault(FaultEvent {
            nemesis: nemesis.to_owned(),
            fault,
            phase,
            nodes: nodes.to_vec(),
            detail: String::new(),
        }))
    }

    pub fn history(self) -> History {
        History {
            events: self.events,
        }
    }
}

/// A number at a revision, as the store reports it.
pub fn version(value: i64, create: i64, modified: i64, version: i64) -> Version {
    Version {
        value: Value::Number(value),
        create,
        modified,
        version,
    }
}
