package pds

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fault makes the database refuse one kind of change, as a crash or a full disk would in the middle of a request.
func (b *bed) fault(table, when string) (mend func()) {
	b.t.Helper()
	exec := func(sql string) {
		_, err := b.pool.Exec(b.t.Context(), sql)
		require.NoError(b.t, err)
	}
	exec(`create or replace function fault() returns trigger language plpgsql as $$ begin raise exception 'fault'; end $$`)
	exec(fmt.Sprintf(`create trigger fault before %s on %s for each row execute function fault()`, when, table))
	return func() { exec(`drop trigger fault on ` + table) }
}

// Wherever a creation stops, nothing half made is seen, and the same request goes on: one account, one DID, one invite.
func TestCreationThatStopsAtAnyStepIsFinishedByTheSameRequest(t *testing.T) {
	t.Parallel()
	for _, step := range []struct{ what, table, when string }{
		{"before the sign-up", "signup", "insert"},
		{"before the invite", "invite", "update"},
		{"before the sign-up ends", "signup", "delete"},
		{"before the account", "account", "insert"},
		{"before the repository", "repo", "insert"},
		{"before its blocks", "block", "insert"},
		{"before its number", "event_head", "update"},
		{"before its events", "event", "insert"},
		{"before the session", "session", "insert"},
	} {
		t.Run(step.what, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			in := m{"handle": "half.test", "password": password, "inviteCode": b.invite()}
			mend := b.fault(step.table, step.when)
			assert.Equal(t, http.StatusInternalServerError, b.post("", createAccountNSID, in).Status)
			if step.table == "session" { // all but the answer was done
				mend()
				b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": "half.test", "password": password}))
				return
			}
			assert.Zero(t, b.count(`select count(*) from account`))
			assert.Zero(t, b.count(`select count(*) from event`))
			mend()
			b.restart()
			a := b.ok(b.post("", createAccountNSID, in))
			u := &user{bed: b, DID: syntax.DID(a.str("did")), Handle: "half.test", Access: a.str("accessJwt")}
			u.ok(u.create(note, "", m{"text": "made"}))
			u.assertWhole()
			assert.Equal(t, 1, b.count(`select count(*) from account`))
			assert.Equal(t, 1, b.count(`select sum(used) from invite`))
			assert.Zero(t, b.count(`select count(*) from signup`))
			entries, err := b.plc.Audit(t.Context(), u.DID)
			require.NoError(t, err)
			assert.Len(t, entries, 1)
		})
	}
}

// The same for a move: arrival, repository, activation.
func TestMoveThatStopsAtAnyStepIsFinishedByTheSameRequest(t *testing.T) {
	t.Parallel()
	for _, step := range []struct{ what, table, when string }{
		{"arrival: before the account", "account", "insert"},
		{"arrival: before its note", "arrival", "insert"},
		{"import: before the first block", "repo_import_block", "insert"},
		{"import: before the old repository goes", "block", "delete"},
		{"import: before the records", "record", "insert"},
		{"import: before the head", "repo", "update"},
		{"activation: before the status", "account", "update"},
		{"activation: before the events", "event", "insert"},
	} {
		t.Run(step.what, func(t *testing.T) {
			t.Parallel()
			from := newBed(t)
			to := from.neighbour()
			u := from.account("mover")
			u.fill(5)
			arrive := m{"did": u.DID, "handle": "arrived.test", "password": password, "inviteCode": to.invite()}
			mend := to.fault(step.table, step.when)
			faults := 0
			try := func(send func() answer) answer {
				a := send()
				if a.Status == http.StatusInternalServerError {
					faults++
					mend()
					to.restart()
					a = send()
				}
				return to.ok(a)
			}
			a := try(func() answer { return to.post(u.letGo(to), createAccountNSID, arrive) })
			there := &user{bed: to, DID: u.DID, Handle: "arrived.test", Access: a.str("accessJwt")}
			car := u.car()
			try(func() answer { return there.importCAR(car) })
			u.point(there)
			try(there.activate)
			assert.Equal(t, 1, faults, "the fault was met")
			assert.Equal(t, 5, there.assertWhole().Len())
			assert.Equal(t, 4, to.count(`select count(*) from event`))
			assert.Zero(t, to.count(`select count(*) from arrival`))
			assert.Equal(t, 1, to.count(`select sum(used) from invite`))
		})
	}
}
