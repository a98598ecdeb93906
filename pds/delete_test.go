package pds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/pds/scope"
)

// traces says in which tables and files the text stands.
func (b *bed) traces(text string) map[string]bool {
	b.t.Helper()
	found := map[string]bool{}
	rows, err := b.pool.Query(b.t.Context(), `select table_name from information_schema.tables where table_schema = current_schema()`)
	require.NoError(b.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(b.t, err)
	for _, table := range tables {
		rows, err := b.pool.Query(b.t.Context(), `select * from `+pgx.Identifier{table}.Sanitize())
		require.NoError(b.t, err)
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(b.t, err)
			for _, v := range values {
				raw, ok := v.([]byte)
				if !ok {
					raw = fmt.Append(nil, v)
				}
				if bytes.Contains(raw, []byte(text)) {
					found[table] = true
				}
			}
		}
		require.NoError(b.t, rows.Err())
	}
	err = filepath.WalkDir(b.deps.BlobDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(text)) {
			found["files"] = true
		}
		return err
	})
	require.NoError(b.t, err)
	return found
}

// A deleted account is gone with its records, blocks, blobs and key. One event says so, until the firehose's window is over.
func TestDeletedAccountLeavesNothingButTheNewsOfIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	b.run()
	f := b.follow(0)
	ref := u.ok(u.upload("text/plain", []byte("between the lines"))).JSON["blob"].(m)
	before := int64(b.count(`select seq from event_head`))
	u.ok(u.create(note, "a", m{"text": "my secret words", "blob": ref}))
	other.ok(other.create(note, "a", m{"text": "stay"}))
	require.Equal(t, map[string]bool{"block": true, "event": true}, b.traces("my secret words"))
	require.Equal(t, map[string]bool{"files": true}, b.traces("between the lines"))

	bad := b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": "wrong password", "token": ""})
	require.Equal(t, http.StatusUnauthorized, bad.Status)
	b.ok(b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": password, "token": ""}))

	require.Empty(t, b.traces("my secret words"))
	require.Empty(t, b.traces("between the lines"))
	require.Equal(t, map[string]bool{"event": true}, b.traces(u.DID.String()))
	require.Empty(t, b.traces("user.test"), "its handle is free again")
	require.Equal(t, "ExpiredToken", u.get(u.Access, "com.atproto.server.getSession").name())
	require.Equal(t, "RepoNotFound", u.get("", "com.atproto.sync.getRepo", "did", u.DID.String()).name())
	other.ok(other.get("", "com.atproto.repo.getRecord", "repo", other.DID.String(), "collection", note, "rkey", "a"))
	for {
		acc, ok := f.next().(*firehose.Account)
		if ok && !acc.Active {
			assert.Equal(t, u.DID, acc.DID)
			assert.Equal(t, "deleted", acc.Status)
			break
		}
	}
	for late := b.follow(before); ; { // nor does the stream's memory hold what its table has lost
		ev := late.next()
		if acc, ok := ev.(*firehose.Account); ok && !acc.Active {
			break
		}
		require.NotEqual(t, u.DID, ev.Subject(), "%T", ev)
	}
	b.clock.Advance(1000 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	require.Empty(t, b.traces(u.DID.String()))
	again := b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": password, "token": ""})
	require.Equal(t, http.StatusUnauthorized, again.Status)
}

// Where there is an address the password is not enough: the word is sent there, and good for a while and for a few tries.
func TestDeletionIsConfirmedByMail(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var sent []string
	down := errors.New("down")
	fail := down
	b.deps.Mail = func(_ context.Context, to, _, text string) error {
		assert.Equal(t, "user@example.org", to)
		sent = append(sent, text)
		return fail
	}
	b.restart()
	u := b.account("user")
	require.Equal(t, "NoEmail", b.post(u.Access, "com.atproto.server.requestAccountDelete", nil).name())
	_, err := b.pool.Exec(t.Context(), `update account set email = 'user@example.org' where did = $1`, u.DID)
	require.NoError(t, err)
	ask := func() answer { return b.post(u.Access, "com.atproto.server.requestAccountDelete", nil) }
	require.Equal(t, "MailNotSent", ask().name())
	fail = nil
	b.ok(ask())
	word := regexp.MustCompile(`[A-Z2-7]{5}-[A-Z2-7]{5}`).FindString(sent[1])
	require.NotEmpty(t, word)
	remove := func(word string) answer {
		b.clock.Advance(time.Minute / 4) // logins are limited too
		return b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": password, "token": word})
	}
	for range wordTries {
		require.Equal(t, "InvalidToken", remove("AAAAA-AAAAA").name())
	}
	require.Equal(t, "InvalidToken", remove(word).name(), "guessed too often")
	b.ok(ask())
	word = regexp.MustCompile(`[A-Z2-7]{5}-[A-Z2-7]{5}`).FindString(sent[2])
	b.clock.Advance(wordLife)
	require.Equal(t, "ExpiredToken", remove(word).name())
	b.ok(ask())
	b.ok(remove(regexp.MustCompile(`[A-Z2-7]{5}-[A-Z2-7]{5}`).FindString(sent[3])))
	require.Zero(t, b.count(`select count(*) from account where did = $1`, u.DID))
}

func TestOperatorDeletesAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ask := func(password string) answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/xrpc/com.atproto.admin.deleteAccount",
			bytes.NewReader(fmt.Appendf(nil, `{"did":%q}`, u.DID)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.SetBasicAuth("admin", password)
		return b.do(req)
	}
	require.Equal(t, http.StatusUnauthorized, ask("no").Status)
	b.ok(ask(adminPassword))
	require.Equal(t, "RepoNotFound", ask(adminPassword).name())
}

// Whoever changes the controllers of an account holds its row first, and so does its deletion: neither waits for the other in a ring.
func TestDeletionWaitsForWhoeverChangesTheAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	other := b.held()
	_, err := other.Exec(t.Context(), `select from account where did = $1 for no key update`, o.DID)
	require.NoError(t, err)
	gone := make(chan error, 1)
	go func() { gone <- b.server.Load().delete(context.Background(), o.DID) }()
	b.blocked(1)
	_, err = other.Exec(t.Context(), `select from controller where did = $1 for update`, o.DID)
	require.NoError(t, err)
	require.NoError(t, other.Commit(t.Context()))
	require.NoError(t, <-gone)
	require.Empty(t, b.count(`select count(*) from controller`))
}

// Between the look for accounts that are due and the deletion of one, its owner may come back.
func TestOwnerWhoComesBackInTheLastMomentKeepsTheAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.upload("image/png", png))
	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{"deleteAfter": b.clock.Now().Add(time.Hour).Format(time.RFC3339)}))
	b.clock.Advance(2 * time.Hour)
	back := b.held()
	_, err := back.Exec(t.Context(), `select from repo where did = $1 for update`, u.DID)
	require.NoError(t, err)
	swept := make(chan error, 1)
	go func() { swept <- b.server.Load().deleteDeparted(context.Background(), b.clock.Now()) }()
	b.blocked(1)
	_, err = back.Exec(t.Context(), `update account set status = 'active' where did = $1`, u.DID)
	require.NoError(t, err)
	_, err = back.Exec(t.Context(), `delete from departure where did = $1`, u.DID)
	require.NoError(t, err)
	require.NoError(t, back.Commit(t.Context()))
	require.NoError(t, <-swept)
	require.Equal(t, 1, b.count(`select count(*) from account where did = $1`, u.DID))
	files, err := os.ReadDir(b.server.Load().files.folder(u.DID))
	require.NoError(t, err)
	require.Len(t, files, 1, "its blob is there")
}
