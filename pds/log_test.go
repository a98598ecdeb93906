package pds

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A log cannot forget. It names accounts by their DIDs, which are worth nothing once the account is gone; names and addresses are in no line of it,
// whatever fails.
func TestLogNamesNoHandleAndNoAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var lines bytes.Buffer
	b.deps.Log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.deps.Mail = func(_ context.Context, to, _, _ string) error { return errors.New("550 no mailbox " + to) }
	whole := b.deps.Pool
	b.restart()
	u := b.account("telling").withAddress("telling@example.org")
	b.post("", "com.atproto.server.createSession", m{"identifier": u.Handle, "password": "wrong password"})
	assert.Equal(t, "MailNotSent", b.post(u.Access, "com.atproto.server.requestAccountDelete", nil).name())
	u.ok(u.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": "telling2.test"}))
	b.get("", "com.atproto.identity.resolveHandle", "handle", "telling.example.org")

	// A database that is broken in the middle of it all.
	broken, err := pgxpool.NewWithConfig(t.Context(), whole.Config())
	require.NoError(t, err)
	broken.Close()
	b.deps.Pool = broken
	b.restart()
	for nsid, in := range map[string]m{
		"com.atproto.server.createAccount":        {"handle": "telling3.test", "password": password, "email": "telling3@example.org", "inviteCode": "x"},
		"com.atproto.server.createSession":        {"identifier": "telling2.test", "password": password},
		"com.atproto.server.requestPasswordReset": {"email": "telling@example.org"},
	} {
		b.post("", nsid, in)
	}
	b.get("", "com.atproto.repo.describeRepo", "repo", "telling2.test")
	b.get("", "com.atproto.identity.resolveHandle", "handle", "telling2.test")
	assert.GreaterOrEqual(t, b.visitor().fill("/account/sign-in", "identifier", "telling2.test", "password", password).Status, http.StatusInternalServerError)
	require.Contains(t, lines.String(), "method failed")
	for line := range strings.Lines(lines.String()) {
		assert.NotContains(t, line, "telling")
	}
}
