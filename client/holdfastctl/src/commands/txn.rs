//! txn: from the text form or JSON to an answer.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read},
    path::Path,
};

use holdfast_client::{
    Client, Txn,
    proto::etcdserverpb::{ResponseOp, TxnResponse, response_op::Response},
};
use serde_json::{Value, json};

use super::kv;
use crate::{
    args::TxnArgs,
    encoding::Encoding,
    exit::{Code, Failure},
    output::{self, Format, Screen},
    txn_json, txn_text,
};

/// Reads the transaction from where the arguments say.
pub fn read(args: &TxnArgs, screen: &Screen) -> Result<Txn, Failure> {
    let Some(path) = &args.json else {
        return read_text(screen.encoding);
    };
    let mut text = String::new();
    let result = match path == Path::new("-") {
        true => io::stdin().read_to_string(&mut text),
        false => fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    result.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    txn_json::parse(&text, screen.encoding)
}

fn read_text(encoding: Encoding) -> Result<Txn, Failure> {
    let stdin = io::stdin();
    let asks = stdin.is_terminal();
    let mut parser = txn_text::Parser::new(encoding);
    let ask = |prompt: &str| {
        if asks {
            eprintln!("{prompt}");
        }
    };
    ask(parser.prompt());
    for line in stdin.lock().lines() {
        let before = parser.prompt();
        parser.line(&line?)?;
        if parser.is_complete() {
            break;
        }
        if parser.prompt() != before {
            ask(parser.prompt());
        }
    }
    Ok(parser.finish())
}

pub async fn run(client: &Client, txn: Txn, screen: &mut Screen) -> Result<Code, Failure> {
    let answer = txn.on(client).await?;
    match screen.format {
        Format::Json => screen.json(&txn_json(&answer, screen.encoding))?,
        Format::Plain | Format::Table => show(&answer, screen)?,
    }
    Ok(Code::Ok)
}

fn show(answer: &TxnResponse, screen: &mut Screen) -> Result<(), Failure> {
    screen.line(if answer.succeeded {
        "SUCCESS"
    } else {
        "FAILURE"
    })?;
    for op in &answer.responses {
        screen.line("")?;
        match &op.response {
            Some(Response::ResponsePut(put)) => {
                screen.line("OK")?;
                kv::show(put.prev_kv.as_slice(), screen)?;
            }
            Some(Response::ResponseRange(range)) => {
                if range.kvs.is_empty() && range.count > 0 {
                    screen.line(range.count.to_string())?;
                }
                kv::show(&range.kvs, screen)?;
            }
            Some(Response::ResponseDeleteRange(delete)) => {
                screen.line(delete.deleted.to_string())?;
                kv::show(&delete.prev_kvs, screen)?;
            }
            Some(Response::ResponseTxn(txn)) => show(txn, screen)?,
            None => {}
        }
    }
    Ok(())
}

fn txn_json(answer: &TxnResponse, encoding: Encoding) -> Value {
    let op = |op: &ResponseOp| match &op.response {
        Some(Response::ResponsePut(put)) => json!({ "put": kv::put_json(put, encoding) }),
        Some(Response::ResponseRange(range)) => json!({ "get": kv::range_json(range, encoding) }),
        Some(Response::ResponseDeleteRange(delete)) => {
            json!({ "delete": kv::delete_json(delete, encoding) })
        }
        Some(Response::ResponseTxn(txn)) => json!({ "txn": txn_json(txn, encoding) }),
        None => Value::Null,
    };
    json!({
        "header": output::header(answer.header.as_ref()),
        "succeeded": answer.succeeded,
        "responses": answer.responses.iter().map(op).collect::<Vec<_>>(),
    })
}
