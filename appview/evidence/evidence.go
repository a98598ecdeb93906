// Package evidence keeps what residents show to prove their work and nobody else may see: encrypted at rest, given to the issuer of the task
// and to nobody in public, and destroyed when its time is over or its owner says so.
//
// Invariants:
//   - Bytes are stored only encrypted, each object under a fresh key, and bound to its id, owner, task and claim.
//   - The object's key is stored only encrypted under the key file; deleting the row destroys it.
//   - Only its owner, the task's author and that author's delegates are given an object; to all others it does not exist.
//   - What one person keeps here is bounded, in objects and in bytes.
package evidence

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg"
)

const (
	// MaxBytes is the most that one object has.
	MaxBytes   = 5_000_000
	maxObjects = 50 // of one person
	maxTotal   = 100_000_000
	maxPerTask = 10 // of one claim
	keySize    = 32
)

// ErrFull means that the person or the claim has as much here as is kept. Delete something first.
var ErrFull = errors.New("no more evidence is kept")

// errUnknown is one answer for what is not there and for what is not the asker's to see.
var errUnknown = errors.New("no such evidence")

// Store keeps evidence in the AppView's schema.
type Store struct {
	pool  *pgxpool.Pool
	clock clock.Clock
	outer cipher.AEAD // of the key file
}

// NewStore uses a key of 32 bytes that stands in no database.
func NewStore(pool *pgxpool.Pool, key []byte, c clock.Clock) (*Store, error) {
	outer, err := sealer(key)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return &Store{pool: pool, clock: c, outer: outer}, nil
}

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("a key has %d bytes, not %d", keySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Object is a piece of evidence.
type Object struct {
	ID      []byte
	Owner   syntax.DID
	Task    string
	Token   []byte // of the claim
	Mime    string
	Size    int64
	Created time.Time
	Until   time.Time
}

// bound is what an object's bytes are tied to: moved to another row, they do not open.
func (o *Object) bound() []byte {
	out := append([]byte("org.city-sync.evidence.v1\n"), o.ID...)
	return append(out, fmt.Sprintf("%s\n%s\n%x\n%s", o.Owner, o.Task, o.Token, o.Mime)...)
}

// Put encrypts and keeps an object until its time is over.
func (s *Store) Put(ctx context.Context, o Object, plain []byte, keep time.Duration) (*Object, error) {
	o.ID, o.Size = make([]byte, 16), int64(len(plain))
	key := make([]byte, keySize)
	for _, b := range [][]byte{o.ID, key} {
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
	}
	inner, err := sealer(key)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	o.Created = s.clock.Now().UTC().Truncate(time.Second)
	o.Until = o.Created.Add(keep)
	sealed := inner.Seal(nil, nil, plain, o.bound())
	wrapped := s.outer.Seal(nil, nil, key, o.bound())
	clear(key)
	return &o, pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// One at a time for each person, or two could pass the bound together.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('evidence ' || $1, 0))`, o.Owner); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		var objects, bytes, here int64
		const have = `select count(*), coalesce(sum(size), 0), count(*) filter (where task = $2 and token = $3) from evidence where owner = $1`
		if err := tx.QueryRow(ctx, have, o.Owner, o.Task, o.Token).Scan(&objects, &bytes, &here); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		if objects >= maxObjects || bytes+o.Size > maxTotal || here >= maxPerTask {
			return fmt.Errorf("%w: %d objects of %d bytes, %d of them for this claim", ErrFull, objects, bytes, here)
		}
		const insert = `insert into evidence (id, owner, task, token, mime, size, key, sealed, created, until)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
		_, err := tx.Exec(ctx, insert, o.ID, o.Owner, o.Task, o.Token, o.Mime, o.Size, wrapped, sealed, o.Created, o.Until)
		if err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		return nil
	})
}

const columns = `id, owner, task, token, mime, size, created, until`

// find gives an object without its bytes.
func (s *Store) find(ctx context.Context, id []byte) (*Object, error) {
	rows, err := s.pool.Query(ctx, `select `+columns+` from evidence where id = $1 and until > $2`, id, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Object])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return o, nil
}

// open decrypts an object.
func (s *Store) open(ctx context.Context, o *Object) ([]byte, error) {
	var wrapped, sealed []byte
	err := s.pool.QueryRow(ctx, `select key, sealed from evidence where id = $1`, o.ID).Scan(&wrapped, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	key, err := s.outer.Open(nil, nil, wrapped, o.bound())
	if err != nil {
		return nil, fmt.Errorf("evidence %x: its key does not open: %w", o.ID, err)
	}
	inner, err := sealer(key)
	if err != nil {
		return nil, fmt.Errorf("evidence %x: %w", o.ID, err)
	}
	plain, err := inner.Open(nil, nil, sealed, o.bound())
	if err != nil {
		return nil, fmt.Errorf("evidence %x does not open: %w", o.ID, err)
	}
	return plain, nil
}

// list gives the objects of a claim: to its owner the owner's own, to who may see the task's all.
func (s *Store) list(ctx context.Context, task string, token []byte, owner syntax.DID) ([]Object, error) {
	const find = `select ` + columns + ` from evidence where task = $1 and token = $2 and ($3 = '' or owner = $3) and until > $4
		order by created, id limit 100`
	rows, err := s.pool.Query(ctx, find, task, token, owner, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Object])
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return found, nil
}

// remove destroys an object of its owner, and its key with it.
func (s *Store) remove(ctx context.Context, id []byte, owner syntax.DID) (bool, error) {
	tag, err := s.pool.Exec(ctx, `delete from evidence where id = $1 and owner = $2`, id, owner)
	if err != nil {
		return false, fmt.Errorf("evidence: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Sweep destroys what is over and says how much that was.
func (s *Store) Sweep(ctx context.Context) (int64, error) {
	const over = `delete from evidence where id in (select id from evidence where until <= $1 limit 1000)`
	var n int64
	for {
		tag, err := s.pool.Exec(ctx, over, s.clock.Now())
		if err != nil {
			return n, fmt.Errorf("evidence: %w", err)
		}
		if n += tag.RowsAffected(); tag.RowsAffected() < 1000 {
			return n, nil
		}
	}
}
