package pds

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
)

func (u *user) fill(n int) {
	u.t.Helper()
	for i := 0; i < n; i += maxWrites {
		var writes []m
		for j := i; j < min(n, i+maxWrites); j++ {
			writes = append(writes, m{"$type": applyWritesNSID + "#create", "collection": note, "rkey": fmt.Sprintf("r%05d", j), "value": m{"n": j % 50}})
		}
		u.ok(u.apply(writes...))
	}
}

// The whole way in: let go by the old host, repository, blobs, identity, activation. What others hear after it verifies under the new key alone.
func TestAccountMovesInAndOthersTakeItFromHere(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	to.run()
	u := from.account("mover")
	u.fill(700)
	photo := append(bytes.Clone(png), "a photo"...)
	ref := u.ok(u.uploadAsIs("image/png", photo)).JSON["blob"].(m)
	u.ok(u.create(note, "photo", m{"photo": ref}))
	link := ref["ref"].(m)["$link"].(string)
	_, oldRev := u.head()
	held, err := repo.VerifyRepo(t.Context(), bytes.NewReader(u.car()), u.DID, u.key(), repo.Limits{})
	require.NoError(t, err)

	there := u.arriveAt(to, "arrived")
	assert.Equal(t, "RepoDeactivated", to.get("", "com.atproto.sync.getRepo", "did", u.DID.String()).name(), "nothing is shown before it is active")
	there.ok(there.importCAR(u.car()))
	missing := there.ok(there.get(there.Access, "com.atproto.repo.listMissingBlobs"))
	assert.Equal(t, []any{m{"cid": link, "recordUri": recordURI(u.DID, note, "photo")}}, missing.JSON["blobs"])
	st := there.status()
	assert.Equal(t, []any{false, false, 701.0, 1.0, 0.0},
		[]any{st.JSON["activated"], st.JSON["validDid"], st.JSON["indexedRecords"], st.JSON["expectedBlobs"], st.JSON["importedBlobs"]})
	there.ok(there.upload("image/png", photo))
	assert.Empty(t, there.ok(there.get(there.Access, "com.atproto.repo.listMissingBlobs")).JSON["blobs"])
	assert.Equal(t, "IncompatibleDidDoc", there.activate().name(), "the document still names the old host")
	assert.Zero(t, to.count(`select count(*) from event`), "nobody heard of the account so far")
	assert.Empty(t, to.ok(to.get("", "com.atproto.sync.listRepos")).JSON["repos"], "to say that it is closed would close it at its present host")

	u.point(there)
	st = there.status()
	assert.Equal(t, []any{true, 1.0}, []any{st.JSON["validDid"], st.JSON["importedBlobs"]})
	f := to.follow(0)
	there.ok(there.activate())
	there.ok(there.activate()) // again is no error, and no event

	ident := f.next().(*firehose.Identity)
	assert.Equal(t, "arrived.test", ident.Handle)
	acc := f.next().(*firehose.Account)
	assert.True(t, acc.Active)
	commit := f.next().(*firehose.Commit)
	sync := f.next().(*firehose.Sync)
	assert.Empty(t, commit.Ops)
	assert.Equal(t, oldRev, commit.Since)
	v, err := repo.VerifyCommit(t.Context(), commit, there.key(), repo.State{Rev: held.Rev, Data: held.Data}, to.clock.Now())
	require.NoError(t, err, "who holds what the old host served goes on from here")
	assert.Equal(t, held.Data, v.Data)
	assert.Equal(t, commit.Rev, sync.Rev)
	root, err := repo.OpenCommit(carRoot(t, sync.Blocks), u.DID, there.key())
	require.NoError(t, err, "no #sync under the old key")
	assert.Equal(t, repo.Head{Commit: commit.Commit, Data: held.Data, Rev: commit.Rev}, root, "#sync has the rev of its commit")

	full := there.assertWhole()
	assert.Equal(t, 701, full.Len())
	assert.Equal(t, photo, there.ok(there.get("", "com.atproto.sync.getBlob", "did", u.DID.String(), "cid", link)).Raw)
	there.ok(there.create(note, "after", m{"at": "home"}))
	next := f.next().(*firehose.Commit)
	_, err = repo.VerifyCommit(t.Context(), next, there.key(), repo.State{Rev: v.Rev, Data: v.Data}, to.clock.Now())
	require.NoError(t, err)

	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
	assert.Equal(t, "RepoDeactivated", u.create(note, "", m{"x": 1}).name())
}

func carRoot(t *testing.T, car []byte) []byte {
	t.Helper()
	file, err := repo.ReadCAR(bytes.NewReader(car), repo.Limits{})
	require.NoError(t, err)
	return file.Blocks[file.Root]
}

// Trap: the reference takes anybody's repository, and every relay drops what comes after.
func TestForeignRepositoryIsRefused(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u, other := from.account("mover"), from.account("other")
	u.fill(3)
	other.fill(3)
	there := u.arriveAt(to, "arrived")
	before := there.status().str("repoCommit")

	stranger := repotest.NewAuthor(t, "stranger")
	forged := &repotest.Author{DID: u.DID, Key: stranger.Key, Blocks: repo.MapBlocks{}}
	*forged = *stranger
	forged.DID = u.DID
	forged.Fill(3)
	mine := u.car()
	altered := bytes.Clone(mine)
	altered[len(altered)-1] ^= 1
	for what, car := range map[string][]byte{
		"of another account":   other.car(),
		"signed by a stranger": forged.Repo(),
		"one byte changed":     altered,
		"cut off":              mine[:len(mine)-1],
		"no CAR":               []byte("not a repository"),
		"empty":                {},
		"a proof of a part":    u.ok(u.get("", "com.atproto.sync.getRecord", "did", u.DID.String(), "collection", note, "rkey", "r00000")).Raw[:200],
	} {
		a := there.importCAR(car)
		assert.Equal(t, http.StatusBadRequest, a.Status, "%s: %s", what, a.Raw)
		assert.Equal(t, "InvalidRepo", a.name(), what)
	}
	assert.Equal(t, before, there.status().str("repoCommit"), "a refusal changes nothing")
	assert.Zero(t, to.count(`select count(*) from repo_import_block`))
	assert.Zero(t, to.count(`select count(*) from repo_import`))
	there.ok(there.importCAR(mine))
}

// Every block of a repository is needed, and none that it does not reach is kept (P3).
func TestImportTakesExactlyWhatTheHeadReaches(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	u.fill(60)
	there := u.arriveAt(to, "arrived")
	full, err := repo.ReadCAR(bytes.NewReader(u.car()), repo.Limits{})
	require.NoError(t, err)
	n := 0
	for c := range full.Blocks {
		car := repotest.CAR(t, full.Root, func(b repo.Block) bool { return b.CID != c }, full.Blocks)
		assert.Equal(t, "InvalidRepo", there.importCAR(car).name())
		if n++; n == 8 {
			break // each is a round over the network; the rest is internal/repo's test
		}
	}
	extra := repo.Block{CID: repo.CIDForCBOR(repotest.Note("not of the tree")), Data: repotest.Note("not of the tree")}
	full.Blocks.Put(extra)
	there.ok(there.importCAR(repotest.CAR(t, full.Root, func(repo.Block) bool { return true }, full.Blocks)))
	assert.Zero(t, to.count(`select count(*) from block where did = $1 and cid = $2`, u.DID, extra.CID.Bytes()))
	u.point(there)
	there.ok(there.activate())
	there.assertWhole()
}

// An import that is sent again, or after a newer one of the old host, ends with one commit of ours.
func TestImportCanBeSentAgain(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	u.fill(5)
	there := u.arriveAt(to, "arrived")
	car := u.car()
	there.ok(there.importCAR(car))
	first := there.status()
	there.ok(there.importCAR(car))
	assert.Equal(t, first.JSON, there.status().JSON)

	u.ok(u.create(note, "later", m{"text": "written meanwhile"}))
	there.ok(there.importCAR(u.car()))
	again := there.status()
	assert.NotEqual(t, first.str("repoCommit"), again.str("repoCommit"))
	assert.Equal(t, 6.0, again.JSON["indexedRecords"])
	u.point(there)
	there.ok(there.activate())
	there.assertWhole()
	assert.Equal(t, "AccountNotDeactivated", there.importCAR(car).name(), "an active account's repository is not replaced")
}

// An account that left comes back to the row that it has here still: its newer repository takes the place of the old one, and the blobs that
// stayed are not asked for again.
func TestAccountComesBack(t *testing.T) {
	t.Parallel()
	home := newBed(t)
	away := home.neighbour()
	u := home.account("mover")
	u.fill(3)
	photo := append(bytes.Clone(png), "a photo"...)
	ref := u.ok(u.upload("image/png", photo)).JSON["blob"].(m)
	u.ok(u.create(note, "photo", m{"photo": ref}))
	there := u.arriveAt(away, "away")
	there.ok(there.importCAR(u.car()))
	there.ok(there.upload("image/png", photo))
	u.point(there)
	there.ok(there.activate())
	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
	there.ok(there.create(note, "away", m{"text": "written away"}))
	car := there.car()

	u.ok(u.importCAR(car))
	assert.Empty(t, u.ok(u.get(u.Access, "com.atproto.repo.listMissingBlobs")).JSON["blobs"])
	there.point(u)
	require.NoError(t, home.dir.Purge(t.Context(), u.DID.AtIdentifier()))
	home.run()
	f := home.follow(int64(home.count(`select seq from event_head`)))
	u.ok(u.activate())
	f.next()
	f.next()
	held, err := repo.VerifyRepo(t.Context(), bytes.NewReader(car), u.DID, keyBefore(t, home, u), repo.Limits{})
	require.NoError(t, err)
	_, err = repo.VerifyCommit(t.Context(), f.next().(*firehose.Commit), u.key(), repo.State{Rev: held.Rev, Data: held.Data}, home.clock.Now())
	require.NoError(t, err)
	assert.Equal(t, 5, u.assertWhole().Len())
}

// keyBefore is the key that the account had at its former host.
func keyBefore(t *testing.T, b *bed, u *user) atcrypto.PublicKey {
	t.Helper()
	entries, err := b.plc.Audit(t.Context(), u.DID)
	require.NoError(t, err)
	require.Greater(t, len(entries), 1)
	key, err := atcrypto.ParsePublicDIDKey(entries[len(entries)-2].Operation.VerificationMethods[keyName])
	require.NoError(t, err)
	return key
}

// The old host may be gone when the repository comes: the document names us already, and its history names the key that signed.
func TestRepositoryIsTakenAfterTheDocumentHasMoved(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	u.fill(5)
	car := u.car()
	there := u.arriveAt(to, "arrived")
	u.point(there)
	there.ok(there.importCAR(car))
	there.ok(there.activate())
	there.assertWhole()
}

// A sender who stops half-way holds up neither other accounts nor, once it is gone, its own.
func TestSlowImportHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	slow, quick := from.account("slow"), from.account("quick")
	slow.fill(5)
	quick.fill(5)
	there, other := slow.arriveAt(to, "slow"), quick.arriveAt(to, "quick")
	car := slow.car()
	body, feed := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, to.url+"/xrpc/com.atproto.repo.importRepo", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", carType)
	req.Header.Set("Authorization", "Bearer "+there.Access)
	done := make(chan answer)
	go func() { done <- to.do(req) }()
	_, err = feed.Write(car[:len(car)/2]) // returns when the server's side has read it
	require.NoError(t, err)
	require.Eventually(t, func() bool { return to.count(`select count(*) from repo_import`) == 1 }, 10*time.Second, 5*time.Millisecond)

	again := there.importCAR(car)
	assert.Equal(t, http.StatusServiceUnavailable, again.Status, "%s", again.Raw)
	other.ok(other.importCAR(quick.car()))
	_, err = feed.Write(car[len(car)/2:])
	require.NoError(t, err)
	require.NoError(t, feed.Close())
	to.ok(<-done)
	to.ok(there.importCAR(car))
}

func TestImportIsBoundedBySetting(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour(func(c *Config) { c.MaxImport = 2000 })
	u := from.account("mover")
	u.fill(60)
	there := u.arriveAt(to, "arrived")
	a := there.importCAR(u.car())
	assert.Equal(t, http.StatusRequestEntityTooLarge, a.Status, "%s", a.Raw)
}

func TestArrivalNeedsAServiceTokenOfTheAccount(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u, other := from.account("mover"), from.account("other")
	in := func() m {
		return m{"did": u.DID, "handle": "arrived.test", "password": password, "inviteCode": to.invite()}
	}
	service := func(who *user, aud, lxm string) string {
		return who.ok(who.get(who.Access, "com.atproto.server.getServiceAuth", "aud", aud, "lxm", lxm)).str("token")
	}
	own := to.cfg.ServiceDID.String()
	for what, tok := range map[string]string{
		"none":              "",
		"another account's": service(other, own, createAccountNSID),
		"another service":   service(u, from.cfg.ServiceDID.String(), createAccountNSID),
		"another method":    service(u, own, "com.atproto.repo.createRecord"),
		"a session's":       u.Access,
	} {
		a := to.post(tok, createAccountNSID, in())
		assert.Equal(t, http.StatusUnauthorized, a.Status, "%s: %s", what, a.Raw)
	}
	good := service(u, own, createAccountNSID)
	to.ok(to.post(good, createAccountNSID, in()))
	a := to.post(good, createAccountNSID, in())
	assert.Equal(t, "JwtReplayed", a.name())
}

// An answer that got lost: the same request, with a new token, finds what it made. Nobody else does.
func TestArrivalIsTakenUpByTheSameRequest(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	u.arriveAt(to, "arrived")
	again := u.arriveAt(to, "arrived")
	assert.Equal(t, 1, to.count(`select count(*) from account`))
	assert.Equal(t, 1, to.count(`select sum(used) from invite`), "it costs one invite")
	a := to.post(u.letGo(to), createAccountNSID, m{"did": u.DID, "handle": "arrived.test", "password": "another password", "inviteCode": to.invite()})
	assert.Equal(t, "AlreadyHere", a.name())
	u.point(again)
	again.ok(again.activate())
}

func TestAnArrivalWithoutARepositoryBeginsAnew(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	to.run()
	u := from.account("mover")
	there := u.arriveAt(to, "arrived")
	u.point(there)
	f := to.follow(0)
	there.ok(there.activate())
	f.next()
	f.next()
	commit := f.next().(*firehose.Commit)
	_, err := repo.VerifyCommit(t.Context(), commit, there.key(), repo.State{}, to.clock.Now())
	require.NoError(t, err)
	assert.Equal(t, commit.Rev, f.next().(*firehose.Sync).Rev)
}

func TestRecordDeletedBeforeItsBlobCameWaitsNoMore(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	photo := append(bytes.Clone(png), "a photo"...)
	ref := u.ok(u.uploadAsIs("image/png", photo)).JSON["blob"].(m)
	u.ok(u.create(note, "photo", m{"photo": ref}))
	there := u.arriveAt(to, "arrived")
	there.ok(there.importCAR(u.car()))
	u.point(there)
	there.ok(there.activate())
	assert.Len(t, there.ok(there.get(there.Access, "com.atproto.repo.listMissingBlobs")).JSON["blobs"], 1)
	there.ok(there.remove(note, "photo", nil))
	assert.Empty(t, there.ok(there.get(there.Access, "com.atproto.repo.listMissingBlobs")).JSON["blobs"])
	there.ok(there.upload("image/png", photo))
	link := ref["ref"].(m)["$link"].(string)
	assert.Equal(t, "BlobNotFound", there.get("", "com.atproto.sync.getBlob", "did", u.DID.String(), "cid", link).name(), "no record refers to it")
}

func TestDeactivatedAccountIsDeletedOnlyWhenAndIfAskedFor(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	stays, goes, returns := b.account("stays"), b.account("goes"), b.account("returns")
	at := b.clock.Now().Add(48 * time.Hour).Format(time.RFC3339)
	stays.ok(stays.post(stays.Access, "com.atproto.server.deactivateAccount", m{}))
	for _, u := range []*user{goes, returns} {
		u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{"deleteAfter": at}))
	}
	a := goes.post(goes.Access, "com.atproto.server.deactivateAccount", m{"deleteAfter": b.clock.Now().Add(-time.Hour).Format(time.RFC3339)})
	assert.Equal(t, "InvalidRequest", a.name())
	returns.ok(returns.activate())
	sweepAll := func() { require.NoError(t, b.server.Load().sweep(t.Context())) }
	b.clock.Advance(47 * time.Hour)
	sweepAll()
	assert.Equal(t, 3, b.count(`select count(*) from account`))
	b.clock.Advance(2 * time.Hour)
	sweepAll()
	assert.Zero(t, b.count(`select count(*) from account where did = $1`, goes.DID))
	assert.Equal(t, 2, b.count(`select count(*) from account`))
	b.clock.Advance(365 * 24 * time.Hour)
	sweepAll()
	assert.Equal(t, 2, b.count(`select count(*) from account`), "without a date nothing is ever deleted")
}

func TestReactivationTellsWhereTheRepositoryStands(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	u.fill(2)
	commit, rev := u.head()
	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
	f := b.follow(int64(b.count(`select seq from event_head`)) - 1)
	closed := f.next().(*firehose.Account)
	assert.Equal(t, []any{false, "deactivated"}, []any{closed.Active, closed.Status})
	u.ok(u.activate())
	assert.Equal(t, "user.test", f.next().(*firehose.Identity).Handle)
	assert.True(t, f.next().(*firehose.Account).Active)
	sync := f.next().(*firehose.Sync)
	assert.Equal(t, rev, sync.Rev)
	nowCommit, _ := u.head()
	assert.Equal(t, commit, nowCommit)
}

// A deactivated account can still leave.
func TestDeactivatedAccountIsLetGo(t *testing.T) {
	t.Parallel()
	from := newBed(t)
	to := from.neighbour()
	u := from.account("mover")
	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
	u.arriveAt(to, "arrived")
	a := u.get(u.Access, "com.atproto.server.getServiceAuth", "aud", to.cfg.ServiceDID.String(), "lxm", "com.atproto.repo.createRecord")
	assert.Equal(t, "RepoDeactivated", a.name())
}

func TestImportsThatACrashLeftAreClearedAway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for _, id := range []string{"old", "young"} {
		_, err := b.pool.Exec(t.Context(), `insert into repo_import values ($1, $2, $3)`, id, u.DID, b.clock.Now())
		require.NoError(t, err)
		_, err = b.pool.Exec(t.Context(), `insert into repo_import_block values ($1, $2, 'cid', 'bytes')`, id, u.DID)
		require.NoError(t, err)
		b.clock.Advance(5 * time.Hour)
	}
	require.NoError(t, b.server.Load().dropImports(t.Context(), b.clock.Now()))
	assert.Equal(t, 1, b.count(`select count(*) from repo_import_block`))
	assert.Equal(t, 1, b.count(`select count(*) from repo_import where id = 'young'`))
}

// The key for the day on which this server loses its own.
func TestOperatorsRecoveryKeyStandsAboveTheServers(t *testing.T) {
	t.Parallel()
	key, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	pub, err := key.PublicKey()
	require.NoError(t, err)
	b := newBed(t, func(c *Config) { c.RecoveryKey = pub.DIDKey() })
	u := b.account("user")
	op, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, []string{pub.DIDKey(), b.server.Load().rotationDID}, op.RotationKeys)
	creds := u.ok(u.get(u.Access, "com.atproto.identity.getRecommendedDidCredentials"))
	assert.Equal(t, []any{pub.DIDKey(), b.server.Load().rotationDID}, creds.JSON["rotationKeys"])
}
