-- Balances are updated in place again and again: room in their pages keeps an update out of the index.
alter table balance set (fillfactor = 50);

-- What every batch writes, as one statement: what it costs a server to begin one, and a connection to bring it, is most of a small batch.
-- Its plans are kept with the session. Counts that a client would look at before it commits are looked at here, so that the COMMIT can be
-- sent along: what is not as it must be ends the transaction, by CS001 where the head is another writer's and by CS002 where a guard is
-- not there to be moved.
-- Caps and allocations of a batch are one or two, and a join for one row is most of its cost: they are moved one by one.
create function write_batch(
  my_term bigint, from_size bigint, new_root bytea, first_node bigint,
  kinds text[], leaf_starts integer[], leaf_sizes integer[], -- of the entries from from_size on, in leaves
  sealed_seqs bigint[], sealed_starts integer[], sealed_sizes integer[],
  line_seqs bigint[],
  cap_books text[], cap_epochs text[], cap_issued bigint[],
  part_books text[], part_epochs text[], part_issuers text[], part_issued bigint[],
  moved_books text[], moved_credits bigint[], moved_votes bigint[], moved_aside bigint[],
  at_tills text[], at_days text[], at_seqs bigint[],
  moved_accounts bytea, line_accounts bytea, hashes bytea, nodes bytea, -- 16 and 32 bytes each, in the order of the others
  sealeds bytea, leaves bytea
) returns void language plpgsql
  -- A plan is made once, perhaps while a table is empty, and must be right when it is long: by its keys.
  set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  entries bigint := cardinality(kinds);
  n bigint;
  made bigint;
begin
  update head set size = from_size + entries, root = case when entries > 0 then new_root else root end
    where one and term = my_term and size = from_size;
  if not found then
    raise exception 'the head is not at % of term %', from_size, my_term using errcode = 'CS001';
  end if;
  if entries = 0 then
    return;
  end if;

  insert into entry (seq, kind, leaf, hash)
    select from_size + e.i - 1, e.kind, substring(leaves from e.at + 1 for e.size), substring(hashes from 32 * e.i::integer - 31 for 32)
    from unnest(kinds, leaf_starts, leaf_sizes) with ordinality as e (kind, at, size, i);
  insert into node (idx, hash) values (first_node, nodes);
  if cardinality(sealed_seqs) > 0 then
    insert into opening (seq, sealed)
      select o.seq, substring(sealeds from o.at + 1 for o.size) from unnest(sealed_seqs, sealed_starts, sealed_sizes) as o (seq, at, size);
  end if;
  if cardinality(line_seqs) > 0 then
    insert into account_entry (account, seq)
      select substring(line_accounts from 16 * l.i::integer - 15 for 16), l.seq from unnest(line_seqs) with ordinality as l (seq, i);
  end if;

  for i in 1 .. cardinality(cap_books) loop
    update cap_guard set issued = issued + cap_issued[i] where book = cap_books[i] and epoch = cap_epochs[i];
    if not found then
      raise exception 'there is no cap of % %', cap_books[i], cap_epochs[i] using errcode = 'CS002';
    end if;
  end loop;
  for i in 1 .. cardinality(part_books) loop
    update allocation_guard set issued = issued + part_issued[i]
      where book = part_books[i] and epoch = part_epochs[i] and issuer = part_issuers[i];
    if not found then
      raise exception 'there is no allocation of % in % %', part_issuers[i], part_books[i], part_epochs[i] using errcode = 'CS002';
    end if;
  end loop;

  -- Most balances are there. "on conflict" would propose each as a new row first.
  if cardinality(moved_books) > 0 then
    update balance b set credits = b.credits + m.credits, votes = b.votes + m.votes, aside = b.aside + m.aside
      from unnest(moved_books, moved_credits, moved_votes, moved_aside) with ordinality as m (book, credits, votes, aside, i)
      where b.account = substring(moved_accounts from 16 * m.i::integer - 15 for 16) and b.book = m.book;
    get diagnostics n = row_count;
    if n < cardinality(moved_books) then
      insert into balance (account, book, credits, votes, aside)
        select a.account, m.book, m.credits, m.votes, m.aside
        from unnest(moved_books, moved_credits, moved_votes, moved_aside) with ordinality as m (book, credits, votes, aside, i),
          lateral (select substring(moved_accounts from 16 * m.i::integer - 15 for 16)) as a (account)
        where not exists (select from balance b where b.account = a.account and b.book = m.book);
      get diagnostics made = row_count;
      n := n + made;
    end if;
    if n <> cardinality(moved_books) then
      raise exception '% balances were moved, not %', n, cardinality(moved_books) using errcode = 'CS002';
    end if;
  end if;
  if cardinality(at_seqs) > 0 then
    insert into till_entry (till, day, seq) select * from unnest(at_tills, at_days, at_seqs);
  end if;
end $$;
