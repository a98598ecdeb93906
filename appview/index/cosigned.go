package index

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// logKeys gives the keys that the log's checkpoints may be signed with now: the one that the city's record names, and those that the log
// itself binds after it, as far as our copy goes. An entry that binds a key stood under a checkpoint of a key known before. A key that has a
// successor counts for the overlap only: what a retired key signs later is nobody's word.
func (l *LogReader) logKeys(ctx context.Context, vkey string) ([]string, error) {
	rows, err := l.x.pool.Query(ctx, "select leaf from log_entry where kind = 'bind' and what = 'logKey' order by seq")
	if err != nil {
		return nil, stored(err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, stored(err)
	}
	keys, last := []string{}, vkey
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return nil, stored(err)
		}
		at, err := entry.ParseTime(e.At)
		if err != nil {
			return nil, stored(err)
		}
		switch {
		case e.Bind.Key == vkey: // the city's record followed: what came before is over
			keys = keys[:0]
		case l.x.clock.Now().Before(at.Add(tlog.KeyOverlap)):
			keys = append(keys, last)
		}
		last = e.Bind.Key
	}
	return append(keys, last), nil
}

// cosigned keeps the newest checkpoint that a quorum of the log's own policy cosigned. Nothing is kept that is not about the log we copied.
func (l *LogReader) cosigned(ctx context.Context, url string, keys []string) error {
	policy, text, err := l.policy(ctx, url)
	if err != nil || policy == nil {
		return err
	}
	signed, found, err := l.get(ctx, url+"/checkpoint/cosigned", tlog.MaxNote)
	if err != nil || !found {
		return err
	}
	c, err := policy.Check(signed, keys...)
	if err != nil {
		return fmt.Errorf("%w: cosigned checkpoint: %w", errLog, err)
	}
	return pg.InTx(ctx, l.x.pool, func(tx pgx.Tx) error {
		var size int64
		switch err := tx.QueryRow(ctx, "select size from log_head").Scan(&size); {
		case errors.Is(err, pgx.ErrNoRows), err == nil && size < c.Size: // our copy is not there yet
			return nil
		case err != nil:
			return stored(err)
		}
		_, root, err := tlog.Append(c.Size, nil, nodes{ctx, tx})
		if err != nil {
			return stored(err)
		}
		if root != c.Root {
			return fmt.Errorf("%w: witnesses cosigned another root at size %d", errLog, c.Size)
		}
		by := make([]string, len(c.Cosignatures))
		for i, s := range c.Cosignatures {
			by[i] = s.Key
		}
		_, err = tx.Exec(ctx, `
insert into log_cosigned (size, root, note, policy, witnesses, members, at) values (@size, @root, @note, @policy, @witnesses, @members, @at)
on conflict (one) do update set size = excluded.size, root = excluded.root, note = excluded.note, policy = excluded.policy,
	witnesses = excluded.witnesses, members = excluded.members, at = excluded.at
where log_cosigned.size <= excluded.size and log_cosigned.note <> excluded.note`,
			pgx.NamedArgs{"size": c.Size, "root": c.Root[:], "note": string(signed), "policy": text, "witnesses": by,
				"members": len(policy.Witnesses), "at": c.At})
		return stored(err)
	})
}

// policy gives the policy that our copy of the log binds, nil while there is none. Its text is the ledger's to serve, its hash the log's.
func (l *LogReader) policy(ctx context.Context, url string) (*tlog.Policy, string, error) {
	var leaf []byte
	err := l.x.pool.QueryRow(ctx, "select leaf from log_entry where kind = 'bind' and what = 'policy' order by seq desc limit 1").Scan(&leaf)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", stored(err)
	}
	e, err := entry.Decode(leaf)
	if err != nil {
		return nil, "", stored(err)
	}
	if l.policyText != "" && hashes(l.policyText, e.Bind.Hash) {
		return l.policyRead, l.policyText, nil
	}
	raw, found, err := l.get(ctx, url+"/policy", tlog.MaxPolicy)
	if err != nil {
		return nil, "", err
	}
	if !found || !hashes(string(raw), e.Bind.Hash) {
		return nil, "", fmt.Errorf("%w: the policy served is not the one that entry %d binds", errLog, e.Seq)
	}
	if l.policyRead, err = tlog.ParsePolicy(raw); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errLog, err)
	}
	l.policyText = string(raw)
	return l.policyRead, l.policyText, nil
}

func hashes(text string, want []byte) bool {
	h := sha256.Sum256([]byte(text))
	return string(h[:]) == string(want)
}
