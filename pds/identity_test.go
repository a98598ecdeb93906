package pds

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

const (
	orgDID    = "did:web:library.example.org"
	orgHandle = "library.example.org"
	orgDoc    = orgHandle + "/.well-known/did.json"
	orgProof  = orgHandle + "/.well-known/atproto-did"
)

// An organization that owns a domain signs up with its own did:web: it is told what its document lacks, and the same request comes through.
func TestDIDWebSignsUpByItsDocument(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	web := b.withWeb()
	in := m{"did": orgDID, "handle": orgHandle, "password": password, "inviteCode": b.invite()}
	a := b.post("", createAccountNSID, in)
	assert.Equal(t, "HandleNotFound", a.name(), "%s", a.Raw)
	web.set(orgProof, "did:web:somebody.example.org")
	assert.Equal(t, "InvalidHandle", b.post("", createAccountNSID, in).name())
	web.set(orgProof, orgDID)
	a = b.post("", createAccountNSID, in)
	assert.Equal(t, "UnresolvableDid", a.name())
	assert.Contains(t, a.str("message"), "https://library.example.org/.well-known/did.json")

	web.set(orgDoc, document(orgDID, "old.example.org", "z6Mk", "https://old.example.org"))
	b.clock.Advance(time.Minute) // what is not there is not asked for again at once
	a = b.post("", createAccountNSID, in)
	require.Equal(t, "IncompatibleDidDoc", a.name(), "%s", a.Raw)
	for _, missing := range []string{"#atproto_pds", b.url, "#atproto", "Multikey", "at://" + orgHandle} {
		assert.Contains(t, a.str("message"), missing)
	}
	key := multikeyIn(t, a.str("message"))

	// Somebody else who claims the same DID gets another key: the document does not name it.
	thief := m{"did": orgDID, "handle": "thief.test", "password": "another password", "inviteCode": b.invite()}
	a = b.post("", createAccountNSID, thief)
	assert.NotEqual(t, key, multikeyIn(t, a.str("message")))

	web.set(orgDoc, document(orgDID, orgHandle, key, b.url))
	assert.Equal(t, "IncompatibleDidDoc", b.post("", createAccountNSID, thief).name())
	stranger := m{"did": orgDID, "handle": orgHandle, "password": "another password", "inviteCode": b.invite()}
	assert.Equal(t, "HandleNotAvailable", b.post("", createAccountNSID, stranger).name())
	a = b.ok(b.post("", createAccountNSID, in))
	assert.Equal(t, []any{orgDID, orgHandle}, []any{a.JSON["did"], a.JSON["handle"]})
	assert.Equal(t, "IncompatibleDidDoc", b.post("", createAccountNSID, thief).name())
	late := m{"did": orgDID, "handle": "late.test", "password": "another password", "inviteCode": b.invite()}
	assert.Equal(t, "AlreadyHere", b.post("", createAccountNSID, late).name())

	u := &user{bed: b, DID: orgDID, Handle: orgHandle, Access: a.str("accessJwt")}
	u.ok(u.create(note, "", m{"text": "from our own domain"}))
	u.assertWhole()
	assert.Equal(t, 5, b.count(`select count(*) from event where did = $1`, orgDID), "identity, account, commit, sync, and the write")
	assert.Equal(t, true, u.status().JSON["validDid"])
	again := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": orgDID, "password": password}))
	assert.Equal(t, orgDID, again.str("did"))
}

// A did:web comes from another host like any other account; its owner edits the document.
func TestDIDWebMovesIn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	web := b.withWeb()
	old, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	pub, err := old.PublicKey()
	require.NoError(t, err)
	web.set(orgProof, orgDID)
	web.set(orgDoc, document(orgDID, orgHandle, pub.Multibase(), "https://old.example.org"))

	rev := syntax.NewTIDFromTime(b.clock.Now().Add(-time.Hour), 0).String()
	blocks := repo.MapBlocks{}
	first, err := repo.Apply(t.Context(), blocks, orgDID, nil, []repo.Write{{Action: repo.Create, Collection: note, RKey: "a", Record: mustRecord(t, m{"n": 1})}}, old, rev)
	require.NoError(t, err)
	var car bytes.Buffer
	require.NoError(t, repo.WriteCAR(&car, first.Head.Commit, func(yield func(repo.Block) bool) {
		for _, block := range first.New {
			if !yield(block) {
				return
			}
		}
	}))
	token, err := signService(old, orgDID, b)
	require.NoError(t, err)
	a := b.ok(b.post(token, createAccountNSID, m{"did": orgDID, "handle": orgHandle, "password": password, "inviteCode": b.invite()}))
	assert.Nil(t, a.JSON["didDoc"], "a client would go on talking to the old host")
	u := &user{bed: b, DID: orgDID, Handle: orgHandle, Access: a.str("accessJwt")}
	u.ok(u.importCAR(car.Bytes()))
	refused := u.activate()
	require.Equal(t, "IncompatibleDidDoc", refused.name())
	creds := u.ok(u.get(u.Access, "com.atproto.identity.getRecommendedDidCredentials"))
	assert.Equal(t, "did:key:"+multikeyIn(t, refused.str("message")), creds.str("verificationMethods", "atproto"))
	assert.Equal(t, "InvalidRequest", u.post(u.Access, "com.atproto.identity.signPlcOperation", m{"token": password}).name())

	web.set(orgDoc, document(orgDID, orgHandle, multikeyIn(t, refused.str("message")), b.url))
	u.ok(u.activate())
	assert.Equal(t, 1, u.assertWhole().Len())
}

func TestHandleOfAnOwnDomainMustNameTheAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	web := b.withWeb()
	b.run()
	u := b.account("user")
	f := b.follow(int64(b.count(`select seq from event_head`)))
	change := func(handle string) answer {
		return u.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": handle})
	}
	assert.Equal(t, "HandleNotFound", change(orgHandle).name())
	web.set(orgProof, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")
	assert.Equal(t, "InvalidHandle", change(orgHandle).name())
	assert.Equal(t, "user.test", u.ok(u.get(u.Access, "com.atproto.server.getSession")).str("handle"))

	web.set(orgProof, u.DID.String())
	u.ok(change("Library.Example.org"))
	ev := f.next().(*firehose.Identity)
	assert.Equal(t, []any{u.DID, orgHandle}, []any{ev.DID, ev.Handle})
	op, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, []string{"at://" + orgHandle}, op.AlsoKnownAs)
	assert.Equal(t, u.DID.String(), b.ok(b.get("", "com.atproto.identity.resolveHandle", "handle", orgHandle)).str("did"))
	assert.Equal(t, "HandleNotFound", b.get("", "com.atproto.identity.resolveHandle", "handle", "user.test").name(), "the old one is free")
	b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": orgHandle, "password": password}))
}

func TestHandleUnderAServersDomainIsTakenOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	b.account("other")
	change := func(handle string) string {
		return u.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": handle}).name()
	}
	for handle, name := range map[string]string{
		"other.test": "HandleNotAvailable", "admin.test": "HandleNotAvailable", "a.b.test": "InvalidHandle", "nothing": "InvalidHandle",
		"far.example.org": "HandleNotFound",
	} {
		assert.Equal(t, name, change(handle), handle)
	}
	assert.Empty(t, change("renamed.test"))
	assert.Empty(t, change("renamed.test"), "again is no error")
	op, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, []string{"at://renamed.test"}, op.AlsoKnownAs)
	assert.Zero(t, b.count(`select count(*) from handle_change`))
}

// A change that stops before the directory hears of it is finished by housekeeping.
func TestHandleChangeThatStoppedHalfWayIsFinished(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	before := b.count(`select count(*) from event`)
	require.NoError(t, b.server.Load().takeHandle(t.Context(), &account{DID: u.DID, Status: statusActive}, "renamed.test"))
	b.plcDown.Store(true)
	assert.Equal(t, "DirectoryUnavailable", u.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": "renamed.test"}).name())
	assert.Equal(t, before, b.count(`select count(*) from event`), "nobody is told what the document does not say")
	b.plcDown.Store(false)
	b.restart()
	require.NoError(t, b.server.Load().finishHandles(t.Context(), b.clock.Now()), "it is given a minute")
	assert.Equal(t, before, b.count(`select count(*) from event`))
	b.clock.Advance(2 * time.Minute)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	op, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, []string{"at://renamed.test"}, op.AlsoKnownAs)
	assert.Equal(t, before+1, b.count(`select count(*) from event`))
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Equal(t, before+1, b.count(`select count(*) from event`))
}

// The reference is the measure: an operation may not lose rotation key, endpoint, signing key or handle.
func TestOperationThatLosesWhatTheAccountNeedsIsRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	last, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	for what, change := range map[string]func(*identity.Operation){
		"rotation key": func(o *identity.Operation) {
			o.RotationKeys = []string{"did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"}
		},
		"endpoint": func(o *identity.Operation) {
			o.Services[serviceName] = identity.Service{Type: serviceType, Endpoint: "https://elsewhere.example.org"}
		},
		"service type": func(o *identity.Operation) {
			o.Services[serviceName] = identity.Service{Type: "Other", Endpoint: b.url}
		},
		"signing key": func(o *identity.Operation) {
			o.VerificationMethods[keyName] = "did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"
		},
		"handle": func(o *identity.Operation) { o.AlsoKnownAs = []string{"at://other.test", "at://user.test"} },
	} {
		op := last.Next()
		change(&op)
		require.NoError(t, op.Sign(b.deps.RotationKey))
		a := u.post(u.Access, "com.atproto.identity.submitPlcOperation", m{"operation": op})
		assert.Equal(t, "InvalidRequest", a.name(), "%s: %s", what, a.Raw)
	}
	tomb := identity.Tombstone(last.CID())
	require.NoError(t, tomb.Sign(b.deps.RotationKey))
	assert.Equal(t, "InvalidRequest", u.post(u.Access, "com.atproto.identity.submitPlcOperation", m{"operation": tomb}).name())
	now, err := b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, last.CID(), now.CID())

	good := last.Next()
	good.AlsoKnownAs = append(good.AlsoKnownAs, "https://library.example.org")
	require.NoError(t, good.Sign(b.deps.RotationKey))
	events := b.count(`select count(*) from event where kind = 'identity'`)
	u.ok(u.post(u.Access, "com.atproto.identity.submitPlcOperation", m{"operation": good}))
	assert.Equal(t, events+1, b.count(`select count(*) from event where kind = 'identity'`))
	u.ok(u.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": "renamed.test"}))
	now, err = b.plc.Last(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, []string{"at://renamed.test", "https://library.example.org"}, now.AlsoKnownAs, "other names stay")
}

// What gives an account away needs the mailed code, once; without a mailbox, the password.
func TestOperationIsSignedAfterTheMailedCode(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.restart()
	a := b.ok(b.post("", createAccountNSID, m{"handle": "mailed.test", "email": "mailed@example.org", "password": password, "inviteCode": b.invite()}))
	u := &user{bed: b, DID: syntax.DID(a.str("did")), Handle: "mailed.test", Access: a.str("accessJwt")}
	sign := func(token string) answer {
		return u.post(u.Access, "com.atproto.identity.signPlcOperation", m{"token": token, "rotationKeys": []string{"did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"}})
	}
	for _, wrong := range []string{"", password, "AAAAA-AAAAA"} {
		assert.Equal(t, "InvalidToken", sign(wrong).name(), "%q", wrong)
	}
	u.ok(u.post(u.Access, "com.atproto.identity.requestPlcOperationSignature", nil))
	word := box.word(t)
	op := u.ok(sign(word)).JSON["operation"].(m)
	assert.Equal(t, []any{"did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w"}, op["rotationKeys"])
	assert.Equal(t, []any{"at://mailed.test"}, op["alsoKnownAs"], "what is not asked for stays")
	assert.Equal(t, "InvalidToken", sign(word).name(), "once")

	plain := b.account("plain")
	assert.Equal(t, "NoEmail", plain.post(plain.Access, "com.atproto.identity.requestPlcOperationSignature", nil).name())
	assert.Equal(t, http.StatusUnauthorized, plain.post(plain.Access, "com.atproto.identity.signPlcOperation", m{"token": "wrong password"}).Status)
	plain.ok(plain.post(plain.Access, "com.atproto.identity.signPlcOperation", m{"token": password}))
}

// One key for one document: the change is told, and the commit after it is of the new key, on the same chain.
func TestSigningKeyIsChanged(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	u.fill(20)
	oldKey := u.key()
	full := u.assertWhole()
	f := b.follow(int64(b.count(`select seq from event_head`)))
	a := u.ok(u.post(u.Access, lexicons.PdsUpdateSigningKey, nil))
	require.NoError(t, lexicons.CheckOutput(lexicons.PdsUpdateSigningKey, a.Raw))
	require.NoError(t, b.dir.Purge(t.Context(), u.DID.AtIdentifier()))
	key := u.key()
	require.Equal(t, key.DIDKey(), a.str("signingKey"))
	require.NotEqual(t, oldKey.DIDKey(), key.DIDKey())
	assert.Equal(t, u.DID, f.next().(*firehose.Identity).DID)
	v, err := repo.VerifyCommit(t.Context(), f.next().(*firehose.Commit), key, repo.State{Rev: full.Rev, Data: full.Data}, b.clock.Now())
	require.NoError(t, err)
	assert.Equal(t, v.Rev, f.next().(*firehose.Sync).Rev)
	u.assertWhole()
	u.ok(u.create(note, "", m{"text": "under the new key"}))
	_, err = repo.VerifyCommit(t.Context(), f.next().(*firehose.Commit), key, repo.State{Rev: v.Rev, Data: v.Data}, b.clock.Now())
	require.NoError(t, err)
	u.assertWhole()
}

// A writer that read its account before the change signs with the key of after it.
func TestWriteThatWaitedForAKeyChangeUsesTheNewKey(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	s := b.server.Load()
	acc, err := s.findAccount(t.Context(), u.DID.String())
	require.NoError(t, err)
	require.NoError(t, s.rotateKey(t.Context(), u.DID))
	rec, err := newRecord(note, "a", []byte(`{"n":1}`), nil)
	require.NoError(t, err)
	_, err = s.write(t.Context(), &authority{Account: acc, Actor: acc.DID, Kind: bySession}, []change{{Intent: toCreate, Collection: note, RKey: "a", Record: rec}}, nil)
	require.NoError(t, err)
	u.assertWhole()
}

// Stopped before or after the directory took the key, the change comes to its end with that very key.
func TestKeyChangeThatStoppedHalfWayIsFinished(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	b.plcDown.Store(true)
	require.Error(t, b.server.Load().rotateKey(t.Context(), u.DID))
	b.plcDown.Store(false)
	b.restart()
	s := b.server.Load()
	u.ok(u.create(note, "a", m{"text": "under the old key"}))
	u.assertWhole()

	// The directory took the key, and the process died before it could store that.
	acc := &account{DID: u.DID, Handle: "user.test"}
	require.NoError(t, b.pool.QueryRow(t.Context(), `select next_key from key_change where did = $1`, u.DID).Scan(&acc.SigningKey))
	require.NoError(t, s.publishKey(t.Context(), acc))
	b.clock.Advance(2 * time.Minute)
	require.NoError(t, s.sweep(t.Context()))
	u.assertWhole()
	assert.Zero(t, b.count(`select count(*) from key_change`))
	entries, err := b.plc.Audit(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "one change, one operation")
}

func TestKeyOfADIDWebChangesOnceItsDocumentNamesIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	web := b.withWeb()
	web.set(orgProof, orgDID)
	web.set(orgDoc, document(orgDID, orgHandle, "z6Mk", b.url))
	in := m{"did": orgDID, "handle": orgHandle, "password": password, "inviteCode": b.invite()}
	web.set(orgDoc, document(orgDID, orgHandle, multikeyIn(t, b.post("", createAccountNSID, in).str("message")), b.url))
	a := b.ok(b.post("", createAccountNSID, in))
	u := &user{bed: b, DID: orgDID, Handle: orgHandle, Access: a.str("accessJwt")}

	s := b.server.Load()
	err := s.rotateKey(t.Context(), orgDID)
	require.ErrorContains(t, err, "publicKeyMultibase")
	next := multikeyIn(t, err.Error())
	require.Equal(t, next, multikeyIn(t, s.rotateKey(t.Context(), orgDID).Error()), "the same key, however often it is asked for")
	u.assertWhole()
	web.set(orgDoc, document(orgDID, orgHandle, next, b.url))
	require.NoError(t, s.rotateKey(t.Context(), orgDID))
	u.assertWhole()
}

// Strangers' slow servers do not take this one along.
func TestHandlesAreLookedUpAFewAtATime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	hold, begun := make(chan struct{}), make(chan struct{}, 2*lookupsAtOnce)
	b.deps.ResolveHandle = func(context.Context, syntax.Handle) (syntax.DID, error) {
		begun <- struct{}{}
		<-hold
		return orgDID, nil
	}
	b.restart()
	ask := func() answer { return b.get("", "com.atproto.identity.resolveHandle", "handle", orgHandle) }
	var g errgroup.Group
	for range lookupsAtOnce {
		g.Go(func() error {
			if a := ask(); a.str("did") != orgDID {
				return fmt.Errorf("%d %s", a.Status, a.Raw)
			}
			return nil
		})
	}
	for range lookupsAtOnce {
		<-begun
	}
	assert.Equal(t, http.StatusServiceUnavailable, ask().Status)
	close(hold)
	require.NoError(t, g.Wait())
	assert.Equal(t, orgDID, ask().str("did"))
}

// Who has left is not renamed by the server that was left, and what cannot be finished waits behind what can.
func TestHandleChangeOfAnAccountThatLeftIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	left, stuck := b.account("left"), b.account("stuck")
	s := b.server.Load()
	require.NoError(t, s.takeHandle(t.Context(), &account{DID: left.DID, Status: statusActive}, "renamed.test"))
	left.ok(left.post(left.Access, "com.atproto.server.deactivateAccount", m{}))
	_, err := b.pool.Exec(t.Context(), `insert into handle_change (did, since) values ($1, $2)`, stuck.DID, b.clock.Now())
	require.NoError(t, err)
	b.clock.Advance(2 * time.Minute)
	now := b.clock.Now()
	before, err := b.plc.Last(t.Context(), left.DID)
	require.NoError(t, err)
	_, err = b.pool.Exec(t.Context(), `update account set handle = 'other.test' where did = $1`, stuck.DID)
	require.NoError(t, err)
	b.plcDown.Store(true)
	require.Error(t, s.finishHandles(t.Context(), now))
	b.plcDown.Store(false)
	after, err := b.plc.Last(t.Context(), left.DID)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	assert.Zero(t, b.count(`select count(*) from handle_change where did = $1`, left.DID))
	assert.Equal(t, 1, b.count(`select count(*) from handle_change where did = $1 and since = $2`, stuck.DID, now), "behind all others")
}
