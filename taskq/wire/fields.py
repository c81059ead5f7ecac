"""The fields of protocol 2."""

from typing import Any

from taskq.wire.request import Request


def own_options(parent: Request) -> dict[str, Any]:
    """The options that make a signature the same call again: for a retry and for a replacement."""
    hard, soft = parent.timelimit
    options: dict[str, Any] = {
        "task_id": parent.id,
        "root_id": parent.root_id,
        "group_id": parent.group,
        "group_index": parent.group_index,
        "expires": parent.expires,
        "time_limit": hard,
        "soft_time_limit": soft,
        "shadow": parent.shadow,
        "link": parent.callbacks,
        "link_error": parent.errbacks,
        "chain": parent.chain,
        "chord": parent.chord,
        "reply_to": parent.reply_to,
        "ignore_result": parent.ignore_result,
        "headers": parent.headers,
        "priority": parent.delivery_info.get("priority"),
        "replaced_task_nesting": parent.replaced_task_nesting,
        "stamped_headers": parent.stamped_headers,
        **parent.stamps,
    }
    return {key: value for key, value in options.items() if value is not None}
