"""Changes of one wallet's books inside somebody else's transaction: refunds, disputes, the end of a closed wallet."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import asyncpg

from services.wallet.domain import commands
from services.wallet.domain.book import Book
from services.wallet.domain.refusals import Refusal
from services.wallet.ledger import digest, to_error
from services.wallet.store import books as books_store
from services.wallet.store import wallets as wallets_store
from services.wallet.store.books import Additions
from services.wallet.store.wallets import wallet_unknown

T = TypeVar("T")


async def change(
    conn: asyncpg.Connection,
    org: str,
    wallet: str,
    run: Callable[[Book], T],
    *,
    now: datetime,
    lots: Sequence[str] = (),
    give_back: int = 0,
) -> T:
    """Changes the books of one wallet inside the caller's transaction, which holds the wallet's lock.

    Does not evaluate recharges: the caller does, after its own writes.

    Args:
        conn: In a READ COMMITTED transaction.
        org: The organisation's bare id.
        wallet: `{subject}/wallets/{id}`.
        run: Moves the money; its transfers belong together.
        now: The deciding clock, read under the lock.
        lots: Grants that are needed even if nothing is left of them.
        give_back: How much of what was spent it may give back, in nano-units.

    Raises:
        PurseError: The wallet is unknown, or what `run` refuses; nothing is written.
    """
    wanted = [(org, lot) for lot in lots]
    books = await books_store.load(conn, [(org, wallet)], {(org, wallet): give_back} if give_back else None, wanted)
    book = books.get((org, wallet))
    if book is None:
        raise wallet_unknown(wallet)
    book.begin()
    book.expire(now)
    book.begin()
    try:
        result = run(book)
    except Refusal as refusal:
        raise to_error(refusal) from None
    await books_store.save(conn, books.values(), Additions(), now)
    return result


async def finish_closing(conn: asyncpg.Connection, org: str, wallet: str, above: str | None) -> bool:
    """Closes a wallet that is being closed and has nothing leased, and nothing to come, any more; says whether it did.

    What is free goes to the wallet above. Where that one cannot take it now, the wallet goes on closing; where there is
    none, it stays where it is.

    Args:
        conn: In a READ COMMITTED transaction.
        org: The organisation's bare id.
        wallet: `{subject}/wallets/{id}`.
        above: The nearest open wallet above it in the same currency; None: there is none.
    """
    wallets = [(org, wallet)] if above is None else [(org, wallet), (org, above)]
    books = await books_store.load(conn, wallets)
    now = await wallets_store.clock(conn)
    giver, taker = books[org, wallet], books.get((org, above or ""))
    if giver.state != "CLOSING" or any(lease.escrow for lease in giver.leases.values()):
        return False
    additions = Additions()
    giver.begin()
    giver.expire(now)
    if commands.has_pending(giver):
        return False
    if taker is not None and giver.available:
        if taker.state != "OPEN":
            return False
        try:
            additions.grants.extend(commands.move_rest(giver, taker, f"closed-{digest(wallet)}", now))
        except Refusal:  # it has too many grants, or has moved too much; nothing is written
            return False
    giver.state = "CLOSED"
    giver.changes.state = True
    await books_store.save(conn, books.values(), additions, now)
    await wallets_store.bump_directory(conn, [org])
    return True
