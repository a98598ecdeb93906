package ledger

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// A request is one that moves something, under a key of its caller. Its answer is kept sealed under that key, of which only the hash
// is kept: nobody reads a redemption code out of the database.
type request struct {
	caller, key string
	body        [32]byte
	bare        [32]byte // as it was hashed before the key was part of it; rows of that time have no caller
}

const maxIdempotencyKey = 64

// newRequest hashes the body with the caller's key, which is kept nowhere: a body that is a short name is not guessed from its hash.
func newRequest(method, caller, key string, body any) (*request, error) {
	if key == "" || len(key) > maxIdempotencyKey {
		return nil, xrpc.InvalidRequest("idempotencyKey must have 1 to %d bytes", maxIdempotencyKey)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("request of %s: %w", method, err)
	}
	return &request{
		caller: caller, key: key,
		body: sha256.Sum256(append([]byte(method+"\n"+key+"\n"), raw...)), bare: sha256.Sum256(append([]byte(method+"\n"), raw...)),
	}, nil
}

func (r *request) hash() []byte {
	h := sha256.Sum256([]byte(r.caller + "\n" + r.key))
	return h[:]
}

func (r *request) seal() (cipher.AEAD, error) {
	k := sha256.Sum256([]byte("org.city-sync.answer.v1\n" + r.caller + "\n" + r.key))
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// answered gives the first answer, if there was one: nil otherwise.
func (r *request) answered(ctx context.Context, q querier) (json.RawMessage, error) {
	var body, sealed []byte
	var early bool
	const kept = `select body, answer, caller is null from idempotency where key = $1`
	err := q.QueryRow(ctx, kept, r.hash()).Scan(&body, &sealed, &early)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("earlier answer: %w", err)
	}
	want := r.body
	if early {
		want = r.bare
	}
	if !bytes.Equal(body, want[:]) {
		return nil, xrpc.Errorf(http.StatusConflict, "IdempotencyConflict", "the key was used with another body")
	}
	aead, err := r.seal()
	if err != nil {
		return nil, fmt.Errorf("earlier answer: %w", err)
	}
	answer, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed, nil)
	if err != nil {
		return nil, broken("an earlier answer does not open: %w", err)
	}
	return answer, nil
}

// once runs a request whose key was not used, and keeps its answer. A refusal is not kept: it changed nothing, and the same question
// may have another answer later.
func (r *request) once(ctx context.Context, b *batch, run func() (any, error)) (any, error) {
	if have, err := r.answered(ctx, b.tx); have != nil || err != nil {
		return have, err
	}
	answer, err := run()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, broken("answer: %w", err)
	}
	aead, err := r.seal()
	if err != nil {
		return nil, broken("seal answer: %w", err)
	}
	// A key seals one answer only, ever: the constant nonce is used once.
	sealed := aead.Seal(nil, make([]byte, aead.NonceSize()), raw, nil)
	const keep = `insert into idempotency (key, body, answer, at, caller) values ($1, $2, $3, $4, $5)`
	if _, err := b.tx.Exec(ctx, keep, r.hash(), r.body[:], sealed, b.now, r.caller); err != nil {
		return nil, fmt.Errorf("keep answer: %w", err)
	}
	return json.RawMessage(raw), nil
}

func randomAccount() (a [16]byte, err error) {
	_, err = rand.Read(a[:])
	return a, err
}
