-- write_batch as it was, but for how it walks its lists: unnest puts each of them away in a store of its own before the first row is looked at,
-- which a small batch pays eleven times. Here the lists are asked by index.
create or replace function write_batch(
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
    select from_size + i - 1, kinds[i], substring(leaves from leaf_starts[i] + 1 for leaf_sizes[i]), substring(hashes from 32 * i - 31 for 32)
    from generate_series(1, entries::integer) i;
  insert into node (idx, hash) values (first_node, nodes);
  if cardinality(sealed_seqs) > 0 then
    insert into opening (seq, sealed)
      select sealed_seqs[i], substring(sealeds from sealed_starts[i] + 1 for sealed_sizes[i]) from generate_series(1, cardinality(sealed_seqs)) i;
  end if;
  if cardinality(line_seqs) > 0 then
    insert into account_entry (account, seq)
      select substring(line_accounts from 16 * i - 15 for 16), line_seqs[i] from generate_series(1, cardinality(line_seqs)) i;
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
    update balance b set credits = b.credits + moved_credits[i], votes = b.votes + moved_votes[i], aside = b.aside + moved_aside[i]
      from generate_series(1, cardinality(moved_books)) i
      where b.account = substring(moved_accounts from 16 * i - 15 for 16) and b.book = moved_books[i];
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
