//! put, get, del, compact.

use std::io::Read;

use holdfast_client::{
    Client,
    proto::{
        etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse},
        mvccpb::KeyValue,
    },
};
use serde_json::{Value, json};

use crate::{
    args::{CompactArgs, DelArgs, GetArgs, PutArgs},
    encoding::Encoding,
    exit::{Code, Failure},
    output::{self, Format, Screen},
};

pub async fn put(client: &Client, args: &PutArgs, screen: &mut Screen) -> Result<Code, Failure> {
    let put = args.request(screen.encoding, || {
        let mut value = Vec::new();
        std::io::stdin().read_to_end(&mut value)?;
        Ok(value)
    })?;
    let answer = put.on(client).await?;
    match screen.format {
        Format::Json => screen.json(&put_json(&answer, screen.encoding))?,
        Format::Plain | Format::Table => {
            screen.line("OK")?;
            show(answer.prev_kv.as_slice(), screen)?;
        }
    }
    Ok(Code::Ok)
}

pub async fn get(client: &Client, args: &GetArgs, screen: &mut Screen) -> Result<Code, Failure> {
    let answer = args.request(screen.encoding)?.on(client).await?;
    match screen.format {
        Format::Json => screen.json(&range_json(&answer, screen.encoding))?,
        _ if args.count_only => screen.line(answer.count.to_string())?,
        Format::Plain if args.keys_only => {
            for kv in &answer.kvs {
                screen.line(screen.encoding.show(&kv.key))?;
            }
        }
        _ if args.print_value_only => {
            for kv in &answer.kvs {
                match screen.encoding {
                    Encoding::Text => screen.raw(&kv.value)?,
                    Encoding::Hex | Encoding::Base64 => {
                        screen.line(screen.encoding.show(&kv.value))?;
                    }
                }
            }
        }
        Format::Plain | Format::Table => show(&answer.kvs, screen)?,
    }
    Ok(if answer.count == 0 && !args.count_only {
        Code::NotFound
    } else {
        Code::Ok
    })
}

pub async fn del(client: &Client, args: &DelArgs, screen: &mut Screen) -> Result<Code, Failure> {
    let answer = args.request(screen.encoding)?.on(client).await?;
    match screen.format {
        Format::Json => screen.json(&delete_json(&answer, screen.encoding))?,
        Format::Plain | Format::Table => {
            screen.line(answer.deleted.to_string())?;
            show(&answer.prev_kvs, screen)?;
        }
    }
    Ok(Code::Ok)
}

pub async fn compact(
    client: &Client,
    args: &CompactArgs,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let compact = client.compact(args.revision);
    let answer = if args.physical {
        compact.physical().await?
    } else {
        compact.await?
    };
    match screen.format {
        Format::Json => {
            screen.json(&json!({ "header": output::header(answer.header.as_ref()) }))?;
        }
        Format::Plain | Format::Table => {
            screen.line(format!("compacted revision {}", args.revision))?;
        }
    }
    Ok(Code::Ok)
}

/// Keys as a table, or key and value on alternating lines.
pub fn show(kvs: &[KeyValue], screen: &mut Screen) -> Result<(), Failure> {
    if screen.format == Format::Table {
        if !kvs.is_empty() {
            screen.table(&output::key_table(kvs, screen.encoding))?;
        }
        return Ok(());
    }
    for kv in kvs {
        screen.line(screen.encoding.show(&kv.key))?;
        screen.line(screen.encoding.show(&kv.value))?;
    }
    Ok(())
}

pub fn put_json(answer: &PutResponse, encoding: Encoding) -> Value {
    let mut json = json!({ "header": output::header(answer.header.as_ref()) });
    if let Some(kv) = &answer.prev_kv {
        json["prev_kv"] = output::key_value(kv, encoding);
    }
    json
}

pub fn range_json(answer: &RangeResponse, encoding: Encoding) -> Value {
    json!({
        "header": output::header(answer.header.as_ref()),
        "kvs": output::key_values(&answer.kvs, encoding),
        "more": answer.more,
        "count": answer.count,
    })
}

pub fn delete_json(answer: &DeleteRangeResponse, encoding: Encoding) -> Value {
    json!({
        "header": output::header(answer.header.as_ref()),
        "deleted": answer.deleted,
        "prev_kvs": output::key_values(&answer.prev_kvs, encoding),
    })
}
