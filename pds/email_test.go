package pds

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	someAddress  = "user@example.org"
	otherAddress = "other@example.org"
)

func (u *user) confirmed() any {
	u.t.Helper()
	return u.ok(u.get(u.Access, "com.atproto.server.getSession")).JSON["emailConfirmed"]
}

func (u *user) confirm(box *mailbox) {
	u.t.Helper()
	u.ok(u.post(u.Access, "com.atproto.server.requestEmailConfirmation", nil))
	u.ok(u.post(u.Access, "com.atproto.server.confirmEmail", m{"email": *u.stored().Email, "token": box.word(u.t.(*testing.T))}))
}

func TestAddressIsConfirmedByTheCodeMailedToIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user")
	assert.Equal(t, "NoEmail", b.post(u.Access, "com.atproto.server.requestEmailConfirmation", nil).name())
	u.withAddress(someAddress)
	assert.Equal(t, false, u.confirmed())
	b.ok(b.post(u.Access, "com.atproto.server.requestEmailConfirmation", nil))
	word := box.word(t)
	give := func(email, word string) string {
		return b.post(u.Access, "com.atproto.server.confirmEmail", m{"email": email, "token": word}).name()
	}
	assert.Equal(t, "InvalidEmail", give(otherAddress, word))
	assert.Equal(t, "InvalidToken", give(someAddress, "AAAAA-AAAAA"))
	assert.Empty(t, give("User@Example.org", word))
	assert.Equal(t, true, u.confirmed())
	assert.Equal(t, true, b.ok(u.signIn(password)).JSON["emailConfirmed"])
	assert.Equal(t, "InvalidToken", give(someAddress, word), "used")
}

func TestConfirmedAddressIsChangedByACodeMailedToIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress(someAddress)
	b.account("other").withAddress("taken@example.org")
	update := func(email, word string) string {
		return b.post(u.Access, "com.atproto.server.updateEmail", m{"email": email, "token": word}).name()
	}
	ask := func() any {
		return b.ok(b.post(u.Access, "com.atproto.server.requestEmailUpdate", nil)).JSON["tokenRequired"]
	}
	assert.Equal(t, false, ask())
	assert.Empty(t, box.to, "nothing is mailed to an address nobody confirmed")
	require.Empty(t, update("first@example.org", ""))
	u.confirm(box)
	assert.Equal(t, "TokenRequired", update(otherAddress, ""))
	assert.Equal(t, true, ask())
	assert.Equal(t, "first@example.org", box.to[len(box.to)-1], "the present address is asked, not the new one")
	word := box.word(t)
	assert.Equal(t, "InvalidRequest", update("nonsense", word))
	assert.Equal(t, "EmailNotAvailable", update("taken@example.org", word))
	assert.Equal(t, true, ask())
	require.Empty(t, update("Other@example.org", box.word(t)))
	assert.Equal(t, otherAddress, *u.stored().Email)
	assert.Equal(t, false, u.confirmed(), "the new one is not confirmed")
}

func TestCodesMailedToTheFormerAddressAreWorthNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress(someAddress)
	s, ctx := b.server.Load(), t.Context()
	require.NoError(t, s.sendReset(ctx, someAddress))
	word := box.word(t)
	require.NoError(t, s.changeEmail(ctx, u.DID, someAddress))
	require.NoError(t, s.changeEmail(ctx, u.DID, otherAddress))
	assert.Equal(t, "InvalidToken", b.post("", "com.atproto.server.resetPassword", m{"token": word, "password": "another password"}).name())
}

// Unlike at the reference, nobody learns who has an account here, nor by the time an answer takes: what there is to do is done after it.
func TestPasswordResetDoesNotTellWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.account("user").withAddress(someAddress)
	ask := func(email string) answer {
		return b.post("", "com.atproto.server.requestPasswordReset", m{"email": email})
	}
	known, unknown := ask(someAddress), ask(otherAddress)
	assert.Equal(t, http.StatusOK, known.Status)
	assert.Equal(t, known.Status, unknown.Status)
	assert.Equal(t, string(known.Raw), string(unknown.Raw))
	assert.Zero(t, b.count(`select count(*) from mail_word`), "the answer came before anything was done")
	assert.Equal(t, "InvalidRequest", ask("nonsense").name())
	b.run()
	<-box.came
	assert.Equal(t, []string{someAddress}, box.to)
}

func TestPasswordResetEndsAllThatTheOldPasswordOpened(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.run()
	u := b.account("user").withAddress(someAddress)
	app := u.appPassword("phone", false)
	phone := b.ok(u.signIn(app))
	b.ok(b.post("", "com.atproto.server.requestPasswordReset", m{"email": "User@Example.org"}))
	<-box.came
	word := box.word(t)
	reset := func(word, fresh string) string {
		return b.post("", "com.atproto.server.resetPassword", m{"token": word, "password": fresh}).name()
	}
	const fresh = "another password"
	assert.Equal(t, "InvalidToken", reset("AAAAA-AAAAA", fresh))
	assert.Equal(t, "InvalidPassword", reset(word, "short"), "and the code is still good")
	require.Empty(t, reset(word, fresh))
	assert.Equal(t, "InvalidToken", reset(word, fresh))
	for _, access := range []string{u.Access, phone.str("accessJwt")} {
		assert.Equal(t, "ExpiredToken", b.get(access, "com.atproto.server.getSession").name())
	}
	assert.Equal(t, "AuthenticationRequired", u.signIn(password).name())
	assert.Equal(t, "AuthenticationRequired", u.signIn(app).name())
	in := b.ok(u.signIn(fresh))
	assert.Equal(t, true, in.JSON["emailConfirmed"], "who read the mail has the address")
}

func TestPasswordResetCodeExpires(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.account("user").withAddress(someAddress)
	require.NoError(t, b.server.Load().sendReset(t.Context(), someAddress))
	b.clock.Advance(wordLife)
	assert.Equal(t, "ExpiredToken", b.post("", "com.atproto.server.resetPassword", m{"token": box.word(t), "password": password}).name())
}

func TestPasswordResetNeedsMail(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("user").withAddress(someAddress)
	for _, email := range []string{someAddress, otherAddress} {
		a := b.post("", "com.atproto.server.requestPasswordReset", m{"email": email})
		assert.Equal(t, "MailNotConfigured", a.name())
	}
}

func TestFailedResetMailIsNotedWithoutTheAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.account("user").withAddress(someAddress)
	var log bytes.Buffer
	b.deps.Log = slog.New(slog.NewTextHandler(&log, nil))
	b.restart()
	box.fail = errors.New(someAddress)
	require.NoError(t, b.server.Load().sendReset(t.Context(), someAddress))
	assert.Contains(t, log.String(), "mail not sent")
	assert.NotContains(t, log.String(), someAddress)
}

func TestEveryoneMayAskForFewResets(t *testing.T) {
	t.Parallel()
	b := newBed(t, defaultLimited)
	b.withMail()
	ask := func() answer {
		return b.post("", "com.atproto.server.requestPasswordReset", m{"email": otherAddress})
	}
	for range 15 {
		b.ok(ask())
	}
	assert.Equal(t, "RateLimitExceeded", ask().name())
	b.clock.Advance(4 * time.Minute)
	b.ok(ask())
}

func TestAppPasswordDoesNotTouchTheAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.withMail()
	u := b.account("user").withAddress(someAddress)
	access := b.ok(u.signIn(u.appPassword("phone", true))).str("accessJwt")
	for _, nsid := range []string{"requestEmailConfirmation", "confirmEmail", "requestEmailUpdate", "updateEmail"} {
		assert.Equal(t, "Forbidden", b.post(access, "com.atproto.server."+nsid, m{"email": otherAddress, "token": "x"}).name(), nsid)
	}
}
