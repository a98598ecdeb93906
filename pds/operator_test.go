package pds

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// operator speaks to the server by Basic.
type operatorClient struct {
	*bed
	name, token string
}

func (b *bed) bootstrap() operatorClient {
	return operatorClient{b, bootstrapOperator, adminPassword}
}

// named makes an operator, who acts by a token.
func (b *bed) named(name string, role Role) operatorClient {
	b.t.Helper()
	_, err := AddOperator(b.t.Context(), b.deps.Pool, name, role, b.clock.Now())
	require.NoError(b.t, err)
	token, err := OperatorToken(b.t.Context(), b.deps.Pool, name, b.clock.Now(), time.Hour)
	require.NoError(b.t, err)
	return operatorClient{b, name, token}
}

func (o operatorClient) send(nsid string, body any) answer {
	o.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(o.t, err)
	req, err := http.NewRequest(http.MethodPost, o.url+"/xrpc/"+nsid, bytes.NewReader(raw))
	require.NoError(o.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth(o.name, o.token)
	return o.do(req)
}

func (o operatorClient) ask(nsid string, params ...string) answer {
	o.t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	req, err := http.NewRequest(http.MethodGet, o.url+"/xrpc/"+nsid+"?"+q.Encode(), nil)
	require.NoError(o.t, err)
	req.SetBasicAuth(o.name, o.token)
	return o.do(req)
}

func TestEachOperatorHasARoleAndIsWrittenDown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	reader, moderator, chief := b.named("rita", RoleReader), b.named("mo", RoleModerator), b.named("ada", RoleAdministrator)
	did := u.DID.String()
	down := m{"subject": m{"$type": subjectRepo, "did": did}, "takedown": m{"applied": true, "ref": "case 7"}}

	b.ok(reader.ask("com.atproto.admin.getAccountInfo", "did", did))
	require.Equal(t, http.StatusForbidden, reader.send("com.atproto.admin.updateSubjectStatus", down).Status)
	b.ok(moderator.send("com.atproto.admin.updateSubjectStatus", down))
	require.Equal(t, http.StatusForbidden, moderator.send("com.atproto.admin.deleteAccount", m{"did": did}).Status)
	require.Equal(t, "RepoNotFound", chief.send("com.atproto.admin.deleteAccount", m{"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}).name())
	b.ok(b.bootstrap().ask("com.atproto.admin.getAccountInfo", "did", did))

	type line struct{ Operator, Method, Detail, Outcome string }
	rows, err := b.pool.Query(t.Context(), `select operator, method, detail, outcome from operator_log where did = $1 order by id`, did)
	require.NoError(t, err)
	var have []line
	for rows.Next() {
		var l line
		require.NoError(t, rows.Scan(&l.Operator, &l.Method, &l.Detail, &l.Outcome))
		l.Method = strings.TrimPrefix(l.Method, "com.atproto.admin.")
		have = append(have, l)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []line{
		{"rita", "getAccountInfo", "", "done"},
		{"mo", "updateSubjectStatus", " takedown=true", "done"},
		{"admin", "getAccountInfo", "", "done"},
	}, have)

	b.ok(chief.send("com.atproto.admin.deleteAccount", m{"did": did}))
	require.Equal(t, 1, b.count(`select count(*) from operator_log where operator = 'ada' and did is null and outcome = 'done'`))
	require.Zero(t, b.count(`select count(*) from operator_log where did is not null or detail like '%takedown%'`), "who is deleted is nowhere, nor what was theirs")
}

func TestOperatorIsLetInByTheirOwnTokenWhileItLasts(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	did := b.account("user").DID.String()
	rita, mo := b.named("rita", RoleReader), b.named("mo", RoleModerator)
	refused := func(o operatorClient) {
		t.Helper()
		a := o.ask("com.atproto.admin.getAccountInfo", "did", did)
		require.Equal(t, http.StatusUnauthorized, a.Status, "%s", a.Raw)
		assert.Equal(t, "Basic", a.Header.Get("WWW-Authenticate"))
	}
	refused(operatorClient{b, "rita", mo.token})
	refused(operatorClient{b, "admin", rita.token})
	refused(operatorClient{b, "rita", adminPassword})
	refused(operatorClient{b, "nobody", adminPassword})
	refused(operatorClient{b, "", ""})
	b.ok(mo.ask("com.atproto.admin.getAccountInfo", "did", did))
	require.NoError(t, DisableOperator(t.Context(), b.deps.Pool, "mo", b.clock.Now()))
	refused(mo)
	_, err := OperatorToken(t.Context(), b.deps.Pool, "mo", b.clock.Now(), time.Hour)
	require.Error(t, err)
	b.clock.Advance(time.Hour)
	refused(rita)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	require.Zero(t, b.count(`select count(*) from operator_token`))

	for _, name := range []string{"admin", "X", "a", "rita", "an operator"} {
		_, err := AddOperator(t.Context(), b.deps.Pool, name, RoleReader, b.clock.Now())
		require.Error(t, err, name)
	}
	_, err = AddOperator(t.Context(), b.deps.Pool, "new", "king", b.clock.Now())
	require.Error(t, err)
}

func TestTakenDownAccountIsClosedAndComesBackAsItWas(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.bootstrap()
	for _, was := range []string{statusActive, statusDeactivated} {
		u := b.account("was-" + was)
		if was == statusDeactivated {
			u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
		}
		down := func(on bool) {
			b.ok(o.send("com.atproto.admin.updateSubjectStatus", m{"subject": m{"$type": subjectRepo, "did": u.DID}, "takedown": m{"applied": on, "ref": "case"}}))
		}
		down(true)
		down(true) // asked for again
		a := b.ok(o.ask("com.atproto.admin.getSubjectStatus", "did", u.DID.String()))
		require.Equal(t, m{"applied": true, "ref": "case"}, a.JSON["takedown"])
		require.Equal(t, "RepoTakendown", b.get("", "com.atproto.sync.getRepo", "did", u.DID.String()).name())
		require.Equal(t, "takendown", b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", u.DID.String())).str("status"))
		require.NotEqual(t, http.StatusOK, u.create(note, "a", m{}).Status)
		require.NotEqual(t, http.StatusOK, u.post(u.Access, "com.atproto.server.activateAccount", nil).Status, "its owner cannot undo it")
		down(false)
		down(false)
		require.Equal(t, was == statusActive, b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", u.DID.String())).JSON["active"])
		require.Zero(t, b.count(`select count(*) from takedown`))
		require.Equal(t, "ExpiredToken", u.get(u.Access, "com.atproto.server.getSession").name(), "what was open before stays closed")
	}
}

func TestTakenDownRecordIsHiddenAndStaysInItsRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o, u := b.bootstrap(), b.account("user")
	cid := u.ok(u.create(note, "a", m{"text": "x"})).str("cid")
	u.ok(u.create(note, "b", m{"text": "y"}))
	uri := recordURI(u.DID, note, "a")
	subject := m{"$type": subjectRecord, "uri": uri, "cid": cid}
	b.ok(o.send("com.atproto.admin.updateSubjectStatus", m{"subject": subject, "takedown": m{"applied": true}}))
	require.Equal(t, "RecordNotFound", b.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", "a").name())
	require.Len(t, b.ok(b.get("", "com.atproto.repo.listRecords", "repo", u.Handle, "collection", note)).JSON["records"], 1)
	require.True(t, b.ok(o.ask("com.atproto.admin.getSubjectStatus", "uri", uri)).JSON["takedown"].(m)["applied"].(bool))
	full := u.assertWhole()
	n := 0
	for range full.Records() {
		n++
	}
	require.Equal(t, 2, n)
	b.ok(o.send("com.atproto.admin.updateSubjectStatus", m{"subject": subject, "takedown": m{"applied": false}}))
	b.ok(b.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", "a"))
	require.Equal(t, "RecordNotFound", o.send("com.atproto.admin.updateSubjectStatus", m{
		"subject": m{"$type": subjectRecord, "uri": recordURI(u.DID, note, "none"), "cid": cid}, "takedown": m{"applied": true},
	}).name())
}

func TestTakenDownBlobIsNotServed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o, u := b.bootstrap(), b.account("user")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	u.ok(u.create(note, "a", m{"blob": ref}))
	cid := ref["ref"].(m)["$link"].(string)
	subject := m{"$type": subjectBlob, "did": u.DID, "cid": cid}
	for _, down := range []bool{true, false} {
		b.ok(o.send("com.atproto.admin.updateSubjectStatus", m{"subject": subject, "takedown": m{"applied": down}}))
		require.Equal(t, down, b.ok(o.ask("com.atproto.admin.getSubjectStatus", "did", u.DID.String(), "blob", cid)).JSON["takedown"].(m)["applied"])
		require.Equal(t, down, b.get("", "com.atproto.sync.getBlob", "did", u.DID.String(), "cid", cid).Status != http.StatusOK)
	}
}

func TestOperatorHelpsAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	o, u := b.bootstrap(), b.account("user")
	did := u.DID.String()
	b.ok(o.send("com.atproto.admin.updateAccountEmail", m{"account": did, "email": "New@Example.org"}))
	b.ok(o.send("com.atproto.admin.updateAccountHandle", m{"did": did, "handle": "other.test"}))
	b.ok(o.send("com.atproto.admin.updateAccountPassword", m{"did": did, "password": "another good one"}))
	require.Equal(t, http.StatusBadRequest, u.get(u.Access, "com.atproto.server.getSession").Status, "what the old password opened is over")
	a := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": "other.test", "password": "another good one"}))
	require.Equal(t, "new@example.org", a.str("email"))
	require.True(t, b.ok(o.send("com.atproto.admin.sendEmail", m{"recipientDid": did, "senderDid": did, "subject": "Hello", "content": "Come by."})).JSON["sent"].(bool))
	require.Equal(t, []string{"Come by."}, box.text)

	b.account("second")
	infos := b.ok(o.ask("com.atproto.admin.getAccountInfos", "dids", did, "dids", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")).JSON["infos"].([]any)
	require.Len(t, infos, 1)
	found := b.ok(o.ask("com.atproto.admin.searchAccounts", "email", "new@example.org")).JSON["accounts"].([]any)
	require.Len(t, found, 1)
	require.Equal(t, did, found[0].(m)["did"])
	page := b.ok(o.ask("com.atproto.admin.searchAccounts", "limit", "1"))
	next := b.ok(o.ask("com.atproto.admin.searchAccounts", "limit", "1", "cursor", page.str("cursor")))
	require.NotEqual(t, page.JSON["accounts"].([]any)[0].(m)["did"], next.JSON["accounts"].([]any)[0].(m)["did"])
}

func TestOperatorListsAndShutsInvites(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.bootstrap()
	b.account("guest")
	code := b.invite()
	codes := b.ok(o.ask("com.atproto.admin.getInviteCodes", "limit", "1", "sort", "usage"))
	require.Len(t, codes.JSON["codes"].([]any), 1)
	require.Len(t, codes.JSON["codes"].([]any)[0].(m)["uses"].([]any), 1, "the one that was used")
	rest := b.ok(o.ask("com.atproto.admin.getInviteCodes", "limit", "10", "sort", "usage", "cursor", codes.str("cursor")))
	require.Len(t, rest.JSON["codes"].([]any), 1)
	require.Equal(t, code, rest.JSON["codes"].([]any)[0].(m)["code"])
	b.ok(o.send("com.atproto.admin.disableInviteCodes", m{"codes": []string{code}}))
	a := b.post("", "com.atproto.server.createAccount", m{"handle": "late.test", "password": password, "inviteCode": code})
	require.Equal(t, "InvalidInviteCode", a.name())
}

func TestTakedownsReferenceIsText(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	a := b.bootstrap().send("com.atproto.admin.updateSubjectStatus", m{
		"subject": m{"$type": subjectRepo, "did": u.DID}, "takedown": m{"applied": true, "ref": "a\x00b"},
	})
	require.Equal(t, "InvalidRequest", a.name())
}

// Who holds the database's address is let in by nobody, and named in the log all the same.
func TestCommandsOfTheMachineStandInTheOperatorsLog(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ctx, pool := t.Context(), b.deps.Pool
	b.named("rita", RoleReader)
	require.NoError(t, DisableOperator(ctx, pool, "rita", b.clock.Now()))
	require.NoError(t, SetBlobQuota(ctx, pool, u.DID, 1000))
	require.NoError(t, SetAccountLimit(ctx, pool, u.DID, "writes", &Rate{Points: 5, Window: time.Hour}))
	require.NoError(t, SetAccountLimit(ctx, pool, u.DID, "writes", nil))
	require.Error(t, SetBlobQuota(ctx, pool, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", 1000))
	require.ErrorContains(t, SetAccountLimit(ctx, pool, u.DID, "writes", &Rate{Points: maxOwnPoints + 1, Window: time.Hour}), "at most")
	rows, err := b.pool.Query(ctx, `
		select method || ' ' || detail || case when did = $1 then ' of the account' else '' end from operator_log
		where operator = 'admin' and method like 'command %' order by id`, u.DID)
	require.NoError(t, err)
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{
		"command operator add rita reader", "command operator token rita", "command operator disable rita",
		"command blobs quota 1000 bytes of the account", "command limit writes 5/1h0m0s of the account", "command limit writes as all others of the account",
	}, have)
}

// Two operators delete one account at once: the row of the one who comes too late names nobody who is gone.
func TestLateDeletionNamesNobodyWhoIsGone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, s := b.account("user"), b.server.Load()
	late := deed{Operator: &Operator{Name: "mo", Role: RoleAdministrator}, Method: "late", DID: u.DID.String()}
	begun, go2 := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	require.NoError(t, s.delete(t.Context(), u.DID))
	go func() {
		done <- s.operate(context.Background(), late, func() error {
			close(begun)
			<-go2
			return s.delete(context.Background(), u.DID)
		})
	}()
	<-begun
	require.Equal(t, 1, b.count(`select count(*) from operator_log where did = $1`, u.DID))
	close(go2)
	require.ErrorIs(t, <-done, errNoRepo)
	require.Empty(t, b.traces(u.DID.String())["operator_log"])
}
