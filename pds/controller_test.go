package pds

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// organization is an account with an app in the hands of one who acts for it.
type organization struct {
	*user
	person *user
	app    *app
}

const everything = "atproto repo:* blob:*/* rpc:org.city-sync.ledger.listClaims?aud=*"

// organization makes an account, and a person whom it invited in a role. The person's app was
// granted everything that an app can be granted.
func (b *bed) organization(role, custom string) *organization {
	b.t.Helper()
	o := &organization{user: b.account("org"), person: b.account("person")}
	o.ok(o.offer(o.person.Handle, role, custom))
	o.app = &app{user: o.user, actor: o.person.DID, scope: everything}
	b.letIn(map[string]*app{"tok": o.app})
	return o
}

func (u *user) offer(who, role, custom string) answer {
	u.t.Helper()
	in := m{"controller": who, "role": role}
	if custom != "" {
		in["scope"] = custom
	}
	raw, err := json.Marshal(in)
	require.NoError(u.t, err)
	require.NoError(u.t, lexicons.CheckInput(lexicons.PdsAddController, raw))
	return u.shaped(u.post(u.Access, lexicons.PdsAddController, in), lexicons.PdsAddController)
}

// shaped holds a good answer against the schema of its method.
func (b *bed) shaped(a answer, nsid string) answer {
	b.t.Helper()
	if a.Status == http.StatusOK {
		require.NoError(b.t, lexicons.CheckOutput(nsid, a.Raw))
	}
	return a
}

func (o *organization) accepted() *organization {
	o.t.Helper()
	a := o.post(o.person.Access, lexicons.PdsAcceptController, m{"account": o.Handle})
	o.ok(o.shaped(a, lexicons.PdsAcceptController))
	require.Equal(o.t, o.DID.String(), a.str("did"))
	return o
}

func (o *organization) dismissed() answer {
	o.t.Helper()
	return o.shaped(o.post(o.Access, lexicons.PdsRemoveController, m{"controller": o.person.DID}), lexicons.PdsRemoveController)
}

// act is a write by the person's app in the organization's name.
func (o *organization) act(collection, rkey string) answer {
	o.t.Helper()
	in, err := json.Marshal(m{"repo": o.DID, "collection": collection, "rkey": rkey, "record": m{"n": rkey}, "validate": false})
	require.NoError(o.t, err)
	return o.dpop("tok", http.MethodPost, "com.atproto.repo.createRecord", "application/json", string(in))
}

// log is the organization's log, newest first, as "action path by actor".
func (u *user) log() []string {
	u.t.Helper()
	a := u.ok(u.shaped(u.get(u.Access, lexicons.PdsListActs, "limit", "100"), lexicons.PdsListActs))
	var out []string
	for _, v := range a.JSON["acts"].([]any) {
		x := v.(m)
		out = append(out, fmt.Sprintf("%s %s by %v", x["action"], x["path"], x["actor"]))
	}
	return out
}

const task = lexicons.WorkTask

func TestControllerActsAfterTheirOwnYesAndWithinTheRole(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleCoordinator, "")
	assert.Equal(t, "NotController", o.act(task, "a").name(), "an invitation allows nothing")
	stranger := b.account("stranger")
	assert.Equal(t, "NotInvited", b.post(stranger.Access, lexicons.PdsAcceptController, m{"account": o.DID}).name())
	assert.Equal(t, "Forbidden", b.post(stranger.Access, lexicons.PdsRemoveController, m{"account": o.DID, "controller": o.person.DID}).name())

	o.accepted().accepted() // twice is once
	o.ok(o.act(task, "a"))
	assert.Equal(t, "InsufficientScope", o.act(lexicons.OfferOffering, "a").name(), "the app may, the role may not")
	assert.Equal(t, "InsufficientScope", o.act(lexicons.WorkClaim, "a").name(), "an organization claims nothing")
	o.app.scope = "atproto repo:org.city-sync.work.verification"
	assert.Equal(t, "InsufficientScope", o.act(task, "b").name(), "the role may, the app may not")
	o.app.scope = everything
	assert.Equal(t, "InsufficientScope", o.dpop("tok", http.MethodPost, "com.atproto.repo.uploadBlob", "image/png", string(png)).name())
	for _, nsid := range []string{"com.atproto.server.requestAccountDelete", lexicons.PdsAddController, lexicons.PdsListActs, lexicons.PdsListControllers} {
		verb := http.MethodPost
		if strings.Contains(nsid, "list") {
			verb = http.MethodGet
		}
		assert.Equal(t, "Forbidden", o.dpop("tok", verb, nsid, "application/json", `{}`).name(), "%s is the owner's", nsid)
	}
	// A person's own session speaks for that person alone.
	in := m{"repo": o.DID, "collection": task, "record": m{}, "validate": false}
	assert.Equal(t, "Forbidden", b.post(o.person.Access, "com.atproto.repo.createRecord", in).name())
	assert.Equal(t, 1, b.count(`select count(*) from record where did = $1`, o.DID))
}

func TestWhatIsDoneForAnAccountIsNotedBesideItAndNeverInIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	alone := b.account("alone")
	alone.ok(alone.create(note, "a", m{"text": "x"}))
	assert.Zero(t, b.count(`select count(*) from act_log`), "nobody acts for it but itself")

	o := b.organization(scope.RoleCustom, "repo:* blob:*/* rpc:org.city-sync.ledger.listClaims?aud=*").accepted()
	wrote := o.ok(o.act(task, "a"))
	o.ok(o.create(note, "own", m{"text": "by the owner"}))
	many := `{"repo":"` + o.DID.String() + `","validate":false,"writes":[
		{"$type":"com.atproto.repo.applyWrites#update","collection":"` + task + `","rkey":"a","value":{"n":2}},
		{"$type":"com.atproto.repo.applyWrites#delete","collection":"` + note + `","rkey":"own"}]}`
	o.ok(o.dpop("tok", http.MethodPost, "com.atproto.repo.applyWrites", "application/json", many))
	blob := o.ok(o.dpop("tok", http.MethodPost, "com.atproto.repo.uploadBlob", "image/png", string(png)))
	ask := "com.atproto.server.getServiceAuth?lxm=org.city-sync.ledger.listClaims&aud=did:web:ledger.example.com%23citysync_ledger"
	o.ok(o.dpop("tok", http.MethodGet, ask, "", ""))

	person, owner := o.person.DID.String(), o.DID.String()
	assert.Equal(t, []string{
		"call org.city-sync.ledger.listClaims did:web:ledger.example.com#citysync_ledger by " + person,
		"upload image/png by " + person,
		"delete " + note + "/own by " + person,
		"update " + task + "/a by " + person,
		"create " + note + "/own by " + owner,
		"create " + task + "/a by " + person,
		"accept custom by " + person,
		"invite custom by " + owner,
	}, o.log())
	list := o.ok(o.get(o.Access, lexicons.PdsListActs)).JSON["acts"].([]any)
	first := list[5].(m)
	assert.Equal(t, wrote.str("cid"), first["cid"])
	assert.Equal(t, wrote.str("commit", "rev"), first["rev"])
	assert.Equal(t, "https://app.example.com/client.json", first["client"])
	assert.Equal(t, "com.atproto.repo.createRecord", first["method"])
	assert.Equal(t, "2026-11-20T09:00:00Z", first["at"])
	assert.Equal(t, blob.JSON["blob"].(m)["ref"].(m)["$link"], list[1].(m)["cid"])

	page := o.ok(o.get(o.Access, lexicons.PdsListActs, "limit", "3"))
	rest := o.ok(o.get(o.Access, lexicons.PdsListActs, "cursor", page.str("cursor")))
	assert.Len(t, rest.JSON["acts"], 5)
	assert.Equal(t, "BadCursor", o.get(o.Access, lexicons.PdsListActs, "cursor", "x").name())

	// What the public gets names nobody: neither the person's DID nor handle.
	for _, read := range []answer{
		b.ok(b.get("", "com.atproto.sync.getRepo", "did", owner)),
		b.ok(b.get("", "com.atproto.repo.describeRepo", "repo", owner)),
		b.ok(b.get("", "com.atproto.repo.getRecord", "repo", owner, "collection", task, "rkey", "a")),
		b.ok(b.get("", "com.atproto.repo.listRecords", "repo", owner, "collection", task)),
		b.ok(o.get(o.Access, "com.atproto.server.getSession")),
	} {
		assert.NotContains(t, string(read.Raw), person)
		assert.NotContains(t, string(read.Raw), o.person.Handle)
	}
	assert.Zero(t, b.count(`select count(*) from event where did = $1 and position(convert_to($2, 'UTF8') in frame) > 0`, owner, person))
	assert.Zero(t, b.count(`select count(*) from block where did = $1 and position(convert_to($2, 'UTF8') in bytes) > 0`, owner, person))
}

func TestNarrowerRoleHoldsAtOnceAndWiderOneMustBeAccepted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	o.ok(o.act(lexicons.OfferOffering, "a"))
	narrower := o.ok(o.offer(o.person.DID.String(), scope.RoleCoordinator, ""))
	assert.NotEmpty(t, narrower.str("acceptedAt"))
	assert.Equal(t, "InsufficientScope", o.act(lexicons.OfferOffering, "b").name())
	o.ok(o.act(task, "b"))
	wider := o.ok(o.offer(o.person.Handle, scope.RoleEditor, ""))
	assert.Empty(t, wider.str("acceptedAt"))
	assert.Equal(t, "NotController", o.act(task, "c").name())
	o.accepted()
	o.ok(o.act(lexicons.OfferOffering, "c"))

	assert.Equal(t, "InvalidRole", o.offer(o.person.Handle, "boss", "").name())
	assert.Equal(t, "InvalidRole", o.offer(o.person.Handle, scope.RoleEditor, "repo:*").name())
	assert.Equal(t, "InvalidRole", o.offer(o.person.Handle, scope.RoleCustom, "account:email").name())
	assert.Equal(t, "InvalidController", o.offer(o.Handle, scope.RoleEditor, "").name())
	assert.Equal(t, "HandleNotFound", o.offer("nobody.test", scope.RoleEditor, "").name())
	assert.Equal(t, "DidNotFound", o.offer("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", scope.RoleEditor, "").name())
}

func TestControllersAndControlledAreListedToThoseConcerned(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleCoordinator, "")
	listed := func(u *user, nsid, field string) []any {
		a := u.ok(u.shaped(u.get(u.Access, nsid), nsid))
		return a.JSON[field].([]any)
	}
	invited := listed(o.person, lexicons.PdsListControlled, "accounts")[0].(m)
	assert.Equal(t, o.Handle, invited["handle"])
	assert.NotContains(t, invited, "acceptedAt")
	acting, err := b.server.Load().actAs(t.Context(), o.person.DID)
	require.NoError(t, err)
	assert.Empty(t, acting)
	b.clock.Advance(time.Hour)
	o.accepted()
	row := listed(o.user, lexicons.PdsListControllers, "controllers")[0].(m)
	assert.Equal(t, o.person.Handle, row["handle"])
	assert.Equal(t, "2026-11-20T09:00:00Z", row["invitedAt"])
	assert.Equal(t, "2026-11-20T10:00:00Z", row["acceptedAt"])
	assert.Contains(t, row["scope"], "org.city-sync.work.task")
	acting, err = b.server.Load().actAs(t.Context(), o.person.DID)
	require.NoError(t, err)
	require.Len(t, acting, 1)
	assert.True(t, acting[0].Scope.Repo(task, scope.Create))
	assert.Empty(t, listed(o.person, lexicons.PdsListControllers, "controllers"))

	// The person lays the role down.
	o.ok(b.post(o.person.Access, lexicons.PdsRemoveController, m{"account": o.DID}))
	assert.Empty(t, listed(o.user, lexicons.PdsListControllers, "controllers"))
	assert.Equal(t, "NotController", o.dismissed().name())
	assert.Equal(t, "remove  by "+o.person.DID.String(), o.log()[0])
}

func TestAtMostFiftyActForOneAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "")
	const others = `
		insert into controller (did, controller, role, scope, mark, invited)
		select $1, 'did:web:p' || n || '.example.com', 'editor', '', 'm', now() from generate_series(2, 50) n`
	_, err := b.pool.Exec(t.Context(), others, o.DID)
	require.NoError(t, err)
	assert.Equal(t, "TooManyControllers", o.offer(b.account("late").Handle, scope.RoleEditor, "").name())
	o.ok(o.offer(o.person.Handle, scope.RoleCoordinator, ""))
}

func TestOneWhoWasTakenDownActsForNobody(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	o.ok(o.act(task, "a"))
	_, err := b.pool.Exec(t.Context(), `update account set status = 'suspended' where did = $1`, o.person.DID)
	require.NoError(t, err)
	assert.Equal(t, "NotController", o.act(task, "b").name())
	may, err := appAccounts{b.server.Load()}.MayAct(t.Context(), o.DID, o.person.DID)
	require.NoError(t, err)
	assert.False(t, may, "nor is an app's token renewed")
}

func TestDeletedPersonLeavesNoNameInTheLogsOfOthers(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	o.ok(o.act(task, "a"))
	app := b.program("atproto repo:" + task)
	app.Exchange(o.person.visitor().answerFor(app.Push(), o.person, o.user, "repo:"+task).To())
	require.Contains(t, b.traces(o.person.DID.String()), "oauth_session")
	o.ok(b.post("", "com.atproto.server.deleteAccount", m{"did": o.person.DID, "password": password, "token": ""}))
	assert.Equal(t, map[string]bool{"event": true}, b.traces(o.person.DID.String()))
	assert.Equal(t, []string{
		"create " + task + "/a by <nil>", "accept editor by <nil>", "invite editor by " + o.DID.String(),
	}, o.log(), "what was done stays")
	o.ok(b.post("", "com.atproto.server.deleteAccount", m{"did": o.DID, "password": password, "token": ""}))
	assert.Zero(t, b.count(`select count(*) from act_log`)+b.count(`select count(*) from controller`))
}

// abroad is a person whose account another server holds.
type abroad struct {
	*bed
	DID syntax.DID
	key atcrypto.PrivateKeyExportable
}

func (b *bed) abroad(name string) *abroad {
	b.t.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(b.t, err)
	pub, err := key.PublicKey()
	require.NoError(b.t, err)
	op := identity.Operation{
		Type: identity.TypeOperation, RotationKeys: []string{pub.DIDKey()},
		VerificationMethods: map[string]string{"atproto": pub.DIDKey()}, AlsoKnownAs: []string{"at://" + name + ".test"},
		Services: map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: "https://elsewhere.example.com"}},
	}
	require.NoError(b.t, op.Sign(key))
	did, err := identity.GenesisDID(op)
	require.NoError(b.t, err)
	require.NoError(b.t, b.plc.Submit(b.t.Context(), did, op))
	return &abroad{bed: b, DID: did, key: key}
}

func (p *abroad) token(lxm, aud string) string {
	p.t.Helper()
	tok, err := xrpc.SignServiceToken(p.key, p.DID.String(), aud, lxm, p.clock.Now(), time.Minute)
	require.NoError(p.t, err)
	return tok
}

func TestControllerOfAnotherServerActsByServiceToken(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o, p := b.organization(scope.RoleCoordinator, ""), b.abroad("far")
	here := b.cfg.ServiceDID.String()
	const create = "com.atproto.repo.createRecord"
	write := func(tok string) answer {
		return b.post(tok, create, m{"repo": o.Handle, "collection": task, "record": m{"n": 1}, "validate": false})
	}
	assert.Equal(t, "NotController", write(p.token(create, here)).name())
	o.ok(o.offer(p.DID.String(), scope.RoleCustom, "repo:org.city-sync.work.task blob:image/* rpc:org.city-sync.ledger.listClaims?aud=*"))
	accept := b.post(p.token(lexicons.PdsAcceptController, here), lexicons.PdsAcceptController, m{"account": o.DID})
	o.ok(b.shaped(accept, lexicons.PdsAcceptController))
	o.ok(b.shaped(b.get(p.token(lexicons.PdsListControlled, here), lexicons.PdsListControlled), lexicons.PdsListControlled))

	tok := p.token(create, here+"#atproto_pds")
	o.ok(write(tok))
	assert.Equal(t, "JwtReplayed", write(tok).name())
	assert.Equal(t, "BadJwtLexiconMethod", write(p.token("com.atproto.repo.putRecord", here)).name())
	assert.Equal(t, "BadJwtAudience", write(p.token(create, "did:web:other.example.com")).name())
	assert.Equal(t, "InsufficientScope", b.post(p.token(create, here), create,
		m{"repo": o.DID, "collection": note, "record": m{}}).name())

	post := func(path, mime, body, tok string) answer {
		req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/"+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", mime)
		req.Header.Set("Authorization", "Bearer "+tok)
		return b.do(req)
	}
	const upload = "com.atproto.repo.uploadBlob"
	o.ok(post(upload+"?repo="+o.DID.String(), "image/png", string(png), p.token(upload, here)))
	ask := func(lxm string) answer {
		const nsid = "com.atproto.server.getServiceAuth"
		return b.get(p.token(nsid, here), nsid, "repo", o.DID.String(), "lxm", lxm, "aud", "did:web:ledger.example.com#citysync_ledger")
	}
	o.ok(ask("org.city-sync.ledger.listClaims"))
	assert.Equal(t, "InsufficientScope", ask("org.city-sync.ledger.bindTill").name())
	assert.Equal(t, 4, b.count(`select count(*) from act_log where actor = $1`, p.DID), "accepted, wrote, uploaded, called")

	o.ok(b.post(p.token(lexicons.PdsRemoveController, here), lexicons.PdsRemoveController, m{"account": o.DID}))
	assert.Equal(t, "NotController", write(p.token(create, here)).name())
}

// A token of an account of ours is good for what services upload in its name, and for no write.
func TestOwnServiceTokenOnlyUploads(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	token := func(lxm string) string {
		return u.ok(u.get(u.Access, "com.atproto.server.getServiceAuth", "aud", b.cfg.ServiceDID.String(), "lxm", lxm)).str("token")
	}
	in := m{"repo": u.DID, "collection": note, "record": m{}}
	assert.Equal(t, "InsufficientScope", b.post(token("com.atproto.repo.createRecord"), "com.atproto.repo.createRecord", in).name())
	assert.Equal(t, http.StatusUnauthorized, b.get(token(lexicons.PdsListActs), lexicons.PdsListActs).Status)
	u.Access = token("com.atproto.repo.uploadBlob")
	u.ok(u.upload("image/png", png))
}

// blocked waits until so many of the server's transactions wait for a lock.
func (b *bed) blocked(n int) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		return b.count(`
			select count(*) from pg_stat_activity
			where wait_event_type = 'Lock' and datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0
			and pid in (select pid from pg_locks where relation in ('repo'::regclass, 'controller'::regclass, 'event_head'::regclass))`) >= n
	}, 10*time.Second, 5*time.Millisecond)
}

// held is a transaction of somebody else's, who lets go at the test's end at latest.
func (b *bed) held() pgx.Tx {
	b.t.Helper()
	tx, err := b.pool.Begin(b.t.Context())
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// A write that passed every check of its request waits for the repository; meanwhile the role ends.
func TestWriteThatWaitedIsRefusedOnceTheRoleHasEnded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleCoordinator, "").accepted()
	held := b.held()
	_, err := held.Exec(t.Context(), `select from repo where did = $1 for update`, o.DID)
	require.NoError(t, err)
	late := make(chan answer, 1)
	go func() { late <- o.act(task, "late") }()
	b.blocked(1)
	o.ok(o.dismissed())
	require.NoError(t, held.Rollback(t.Context()))
	assert.Equal(t, "NotController", (<-late).name())
	assert.Zero(t, b.count(`select count(*) from record where did = $1`, o.DID))
}

// A write that is under way is over before the end of the role is answered.
func TestEndOfARoleWaitsForWritesUnderWay(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleCoordinator, "").accepted()
	held := b.held()
	_, err := held.Exec(t.Context(), `select from event_head for update`) // the last thing that a write takes
	require.NoError(t, err)
	wrote, ended := make(chan answer, 1), make(chan answer, 1)
	go func() { wrote <- o.act(task, "early") }()
	b.blocked(1)
	go func() { ended <- o.dismissed() }()
	b.blocked(2)
	select {
	case <-ended:
		require.Fail(t, "the role ended while a write in it was under way")
	default:
	}
	require.NoError(t, held.Rollback(t.Context()))
	o.ok(<-wrote)
	o.ok(<-ended)
	assert.Equal(t, "NotController", o.act(task, "late").name())
}

// Whatever the moment: when removeController is answered, the last write of that controller is committed.
func TestNothingOfAControllerIsWrittenAfterTheEndIsAnswered(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleCoordinator, "").accepted()
	begun := make(chan struct{}, 100)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := range 200 {
				a := o.act(task, fmt.Sprintf("w%d-%d", w, n))
				if a.Status != http.StatusOK {
					assert.Equal(t, "NotController", a.name(), "%s", a.Raw)
					return
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 8 {
		<-begun
	}
	o.ok(o.dismissed())
	var rev string
	require.NoError(t, b.pool.QueryRow(t.Context(), `select rev from repo where did = $1`, o.DID).Scan(&rev))
	writers.Wait()
	assert.Equal(t, 1, b.count(`select count(*) from repo where did = $1 and rev = $2`, o.DID, rev))
	assert.Equal(t, b.count(`select count(*) from record where did = $1`, o.DID),
		b.count(`select count(*) from act_log where did = $1 and action = 'create' and actor = $2`, o.DID, o.person.DID))
}

// A call that is passed on in the organization's name is within the role, and noted.
func TestControllersCallsElsewhereAreWithinTheRoleAndNoted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	called := make(chan syntax.DID, 1)
	other := b.service(func(w http.ResponseWriter, _ *http.Request, caller syntax.DID) {
		called <- caller
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{}`))
	})
	o := b.organization(scope.RoleCoordinator, "").accepted()
	o.app.scope = "atproto rpc?lxm=org.city-sync.ledger.listClaims&lxm=org.city-sync.ledger.resetTill&aud=*"
	call := func(nsid string) answer {
		req, err := http.NewRequest(http.MethodGet, b.url+"/xrpc/"+nsid, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "DPoP tok")
		req.Header.Set("Atproto-Proxy", other.name)
		return b.do(req)
	}
	o.ok(call(lexicons.LedgerListClaims))
	assert.Equal(t, o.DID, <-called, "the service hears of the organization alone")
	assert.Equal(t, "call "+lexicons.LedgerListClaims+" "+other.name+" by "+o.person.DID.String(), o.log()[0])
	assert.Equal(t, "InsufficientScope", call(lexicons.LedgerResetTill).name(), "that is another role's")
}

// A crash between the end of a role and the end of its apps leaves grants behind: a new role does not wake them.
func TestRoleGivenAgainWakesNoOldApp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	app := b.program("atproto repo:" + task)
	b.server.Load().oauth = b.server.Load().admitApp
	token := app.Exchange(o.person.visitor().answerFor(app.Push(), o.person, o.user, "repo:"+task).To())["access_token"].(string)
	require.True(t, b.opens(app, token))
	_, err := b.pool.Exec(t.Context(), `delete from controller where did = $1`, o.DID)
	require.NoError(t, err)
	require.False(t, b.opens(app, token))
	o.ok(o.offer(o.person.Handle, scope.RoleEditor, ""))
	o.accepted()
	assert.False(t, b.opens(app, token))
}
