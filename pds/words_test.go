package pds

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/textproto"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

var wordForm = regexp.MustCompile(`[A-Z2-7]{5}-[A-Z2-7]{5}`)

// mailbox is the outside mail server: it keeps what it was given, or fails.
type mailbox struct {
	mu   sync.Mutex // guards all below
	fail error
	to   []string
	text []string
	came chan struct{}
}

// withMail gives the server a mailbox.
func (b *bed) withMail() *mailbox {
	b.t.Helper()
	box := &mailbox{came: make(chan struct{}, 100)}
	b.deps.Mail = func(_ context.Context, to, _, text string) error {
		box.mu.Lock()
		defer box.mu.Unlock()
		if box.fail != nil {
			return box.fail
		}
		box.to, box.text = append(box.to, to), append(box.text, text)
		select {
		case box.came <- struct{}{}:
		default: // nobody waits for so many
		}
		return nil
	}
	b.restart()
	return box
}

// word is the one of the last mail.
func (box *mailbox) word(t *testing.T) string {
	t.Helper()
	box.mu.Lock()
	defer box.mu.Unlock()
	require.NotEmpty(t, box.text)
	word := wordForm.FindString(box.text[len(box.text)-1])
	require.NotEmpty(t, word)
	return word
}

func (u *user) withAddress(address string) *user {
	u.t.Helper()
	_, err := u.pool.Exec(context.Background(), `update account set email = $2 where did = $1`, u.DID, address)
	require.NoError(u.t, err)
	return u
}

func (u *user) stored() *account {
	u.t.Helper()
	acc, err := u.server.Load().findAccount(context.Background(), u.DID.String())
	require.NoError(u.t, err)
	return acc
}

func TestWordServesOnceForOnePurposeAndOneAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u, other := b.account("user").withAddress("user@example.org"), b.account("other").withAddress("other@example.org")
	s, ctx := b.server.Load(), t.Context()
	require.NoError(t, s.sendWord(ctx, u.stored(), wordPLCOperation, letterPLCOperation))
	word := box.word(t)
	refused := func(err error, why string) {
		t.Helper()
		assert.ErrorIs(t, err, errWord(), why)
	}
	refused(s.useWord(ctx, u.DID, wordDelete, word), "another purpose")
	refused(s.useWord(ctx, other.DID, wordPLCOperation, word), "another account")
	_, err := s.claimWord(ctx, wordResetPassword, word)
	refused(err, "another purpose, by the word alone")
	var g errgroup.Group
	won := make(chan struct{}, 10)
	for range 4 { // fewer than tries
		g.Go(func() error {
			if s.useWord(ctx, u.DID, wordPLCOperation, " "+strings.ToLower(word)) == nil {
				won <- struct{}{}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	assert.Len(t, won, 1, "as it is typed, and once")
}

func TestNewWordTakesThePlaceOfTheLast(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress("user@example.org")
	s, ctx := b.server.Load(), t.Context()
	require.NoError(t, s.sendWord(ctx, u.stored(), wordResetPassword, letterResetPassword))
	first := box.word(t)
	require.NoError(t, s.sendWord(ctx, u.stored(), wordResetPassword, letterResetPassword))
	_, err := s.claimWord(ctx, wordResetPassword, first)
	require.ErrorIs(t, err, errWord())
	did, err := s.claimWord(ctx, wordResetPassword, box.word(t))
	require.NoError(t, err)
	assert.Equal(t, u.DID, did)
	_, err = s.claimWord(ctx, wordResetPassword, box.word(t))
	require.ErrorIs(t, err, errWord(), "used")
}

func TestNoWordIsStoredOrKeptForEver(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress("user@example.org")
	s := b.server.Load()
	require.NoError(t, s.sendWord(t.Context(), u.stored(), wordResetPassword, letterResetPassword))
	assert.Empty(t, b.traces(box.word(t)))
	b.clock.Advance(wordLife + 25*60*60*1e9)
	require.NoError(t, s.sweep(t.Context()))
	assert.Zero(t, b.count(`select count(*) from mail_word`))
}

func TestLettersSayTheSameInEnglishAndSpanish(t *testing.T) {
	t.Parallel()
	for _, l := range []letter{letterDelete, letterConfirmEmail, letterUpdateEmail, letterResetPassword, letterPLCOperation} {
		text := l.text("user.test", "AAAAA-BBBBB")
		assert.NotContains(t, text, "%!", "every placeholder is filled: %s", text)
		for _, part := range []string{"user.test", "AAAAA-BBBBB", "15 minut"} {
			assert.Equal(t, 2, strings.Count(text, part), "%s in %s", part, text)
		}
		assert.Contains(t, l.Subject, " / ")
	}
}

// A mail server names the address in its refusal; the log does not.
func TestLogOfAFailedMailNamesNobody(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress("user@example.org")
	var log bytes.Buffer
	b.deps.Log = slog.New(slog.NewTextHandler(&log, nil))
	b.restart()
	s, ctx := b.server.Load(), t.Context()
	for _, fail := range []error{&textproto.Error{Code: 550, Msg: "<user@example.org> unknown"}, errors.New("user@example.org"), context.DeadlineExceeded} {
		box.fail = fail
		require.Error(t, s.sendWord(ctx, u.stored(), wordDelete, letterDelete))
	}
	assert.Contains(t, log.String(), "550")
	assert.Contains(t, log.String(), "in time")
	assert.NotContains(t, log.String(), "user")
}
