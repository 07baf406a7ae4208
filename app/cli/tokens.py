"""Parsers of `vidette token`."""

from __future__ import annotations

import argparse
from typing import Any

from app.auth.tokens import SCOPES
from app.cli.options import command, settings_from, with_data_dir


def add_token(commands: Any) -> None:
    example = "vidette token create --scope read --camera gate-1 --expires 90d"
    parser = command(commands, "token", "make, show and revoke tokens for the API, also while it runs", example)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    create = command(actions, "create", "make a token and print it, this once", example)
    with_data_dir(create)
    create.add_argument("--scope", choices=SCOPES, required=True, help="each may also do what those before it may")
    create.add_argument("--camera", action="append", metavar="ID", help="only this camera; repeatable (default: all)")
    create.add_argument("--name", metavar="TEXT", help="what it is for, shown by `token list`")
    create.add_argument("--expires", metavar="WHEN", help="30m, 12h, 90d, or 2027-01-31 (UTC; default: never)")
    shown = command(actions, "list", "show the tokens, without their secrets", "vidette token list --json")
    with_data_dir(shown)
    revoke = command(actions, "revoke", "end a token; its open WebSockets are closed", "vidette token revoke 1a2b3c")
    with_data_dir(revoke)
    revoke.add_argument("id", metavar="ID", help="as `vidette token list` shows it")
    for action in (create, shown, revoke):
        action.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run_create(arguments: argparse.Namespace) -> int:
        from app.commands.token import create_token

        return create_token(settings_from(arguments), arguments)

    def run_list(arguments: argparse.Namespace) -> int:
        from app.commands.token import list_tokens

        return list_tokens(settings_from(arguments), as_json=arguments.json)

    def run_revoke(arguments: argparse.Namespace) -> int:
        from app.commands.token import revoke_token

        return revoke_token(settings_from(arguments), arguments.id, as_json=arguments.json)

    create.set_defaults(run=run_create)
    shown.set_defaults(run=run_list)
    revoke.set_defaults(run=run_revoke)
