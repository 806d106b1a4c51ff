//! Requests from the words of a script.

use std::error::Error;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Context};
use holdfast_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn next(args: &mut ArgumentConsumer<'_>) -> Bytes {
    args.next_pos().map(bytes).unwrap_or_default()
}

pub fn number(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<i64> {
    Ok(args.take_key(key).map(str::parse).transpose()?.unwrap_or(0))
}

/// `put KEY VALUE [lease=N]`, tags `prev_kv`, `ignore_value`, `ignore_lease`. `big=N` instead of
/// a value makes one of N bytes.
pub fn put(args: &mut ArgumentConsumer<'_>, context: &Context) -> Result<PutRequest> {
    let (key, mut value) = (next(args), next(args));
    if let big @ 1.. = number(args, "big")? {
        value = vec![b'x'; usize::try_from(big)?].into();
    }
    Ok(PutRequest {
        key,
        value,
        lease: number(args, "lease")?,
        prev_kv: context.tags.contains("prev_kv"),
        ignore_value: context.tags.contains("ignore_value"),
        ignore_lease: context.tags.contains("ignore_lease"),
    })
}

/// `get KEY [END] [rev= limit= sort= order= min_mod= max_mod= min_create= max_create=]`, tags
/// `keys_only`, `count_only`.
pub fn get(args: &mut ArgumentConsumer<'_>, context: &Context) -> Result<RangeRequest> {
    let sort_target = match args.take_key("sort") {
        None | Some("key") => SortTarget::Key as i32,
        Some("version") => SortTarget::Version as i32,
        Some("create") => SortTarget::Create as i32,
        Some("mod") => SortTarget::Mod as i32,
        Some("value") => SortTarget::Value as i32,
        Some(other) => other.parse()?,
    };
    let sort_order = match args.take_key("order") {
        None | Some("none") => SortOrder::None as i32,
        Some("ascend") => SortOrder::Ascend as i32,
        Some("descend") => SortOrder::Descend as i32,
        Some(other) => other.parse()?,
    };
    Ok(RangeRequest {
        key: next(args),
        range_end: next(args),
        limit: number(args, "limit")?,
        revision: number(args, "rev")?,
        sort_order,
        sort_target,
        serializable: false,
        keys_only: context.tags.contains("keys_only"),
        count_only: context.tags.contains("count_only"),
        min_mod_revision: number(args, "min_mod")?,
        max_mod_revision: number(args, "max_mod")?,
        min_create_revision: number(args, "min_create")?,
        max_create_revision: number(args, "max_create")?,
    })
}

/// `del KEY [END]`, tag `prev_kv`.
pub fn del(args: &mut ArgumentConsumer<'_>, context: &Context) -> Result<DeleteRangeRequest> {
    let prev_kv = context.tags.contains("prev_kv");
    Ok(DeleteRangeRequest {
        key: next(args),
        range_end: next(args),
        prev_kv,
    })
}

/// `compact REVISION`.
pub fn compact(args: &mut ArgumentConsumer<'_>) -> Result<CompactionRequest> {
    let revision = args.next_pos().ok_or("compact needs a revision")?.parse()?;
    Ok(CompactionRequest {
        revision,
        physical: false,
    })
}

/// `version|create|mod|value|lease KEY eq|ne|gt|lt OPERAND [end=KEY]`; an operand `none` is left
/// out.
pub fn compare(args: &mut ArgumentConsumer<'_>) -> Result<Compare> {
    let target = args.next_pos().ok_or("a comparison needs a target")?;
    let key = next(args);
    let result = match args.next_pos() {
        Some("eq") => CompareResult::Equal,
        Some("ne") => CompareResult::NotEqual,
        Some("gt") => CompareResult::Greater,
        Some("lt") => CompareResult::Less,
        other => return Err(format!("no comparison {other:?}").into()),
    };
    let operand = args.next_pos().ok_or("a comparison needs an operand")?;
    let number = || operand.parse::<i64>();
    let (target, union) = match target {
        "version" if operand == "none" => (CompareTarget::Version, None),
        "version" => (
            CompareTarget::Version,
            Some(TargetUnion::Version(number()?)),
        ),
        "create" => (
            CompareTarget::Create,
            Some(TargetUnion::CreateRevision(number()?)),
        ),
        "mod" => (
            CompareTarget::Mod,
            Some(TargetUnion::ModRevision(number()?)),
        ),
        "value" if operand == "none" => (CompareTarget::Value, None),
        "value" => (
            CompareTarget::Value,
            Some(TargetUnion::Value(bytes(operand))),
        ),
        "lease" => (CompareTarget::Lease, Some(TargetUnion::Lease(number()?))),
        other => return Err(format!("no comparison target {other}").into()),
    };
    let range_end = args.take_key("end").map(bytes).unwrap_or_default();
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key,
        target_union: union,
        range_end,
    })
}

/// The operation that a `then` or `else` line names; `nothing` makes an empty one.
pub fn operation(args: &mut ArgumentConsumer<'_>, context: &Context) -> Result<Option<Request>> {
    Ok(match args.next_pos() {
        Some("put") => Some(Request::RequestPut(put(args, context)?)),
        Some("get") => Some(Request::RequestRange(get(args, context)?)),
        Some("del") => Some(Request::RequestDeleteRange(del(args, context)?)),
        Some("nothing") => None,
        other => return Err(format!("no operation {other:?}").into()),
    })
}
