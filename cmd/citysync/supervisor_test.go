package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func supervised(t *testing.T, url, script string, args ...string) *supervisor {
	t.Helper()
	return &supervisor{
		name: "child", url: url, http: httpClient(), log: slog.New(slog.DiscardHandler),
		before: func(context.Context) error { return nil },
		child:  child{path: "/bin/sh", args: append([]string{"-c", script, "child"}, args...), out: io.Discard},
	}
}

// starts are the process ids that a child wrote down.
func starts(file string) []string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(raw))
}

func TestAChildThatIsKilledComesBackAndEndsWhenAsked(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "starts")
	s := supervised(t, srv.URL, `trap 'exit 0' TERM; echo $$ >> "$1"; while :; do sleep 0.02; done`, file)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.run(ctx, func() { close(ready) }) }() // ready a second time would panic
	<-ready
	require.Eventually(t, func() bool { return len(starts(file)) == 1 }, 10*time.Second, 10*time.Millisecond)
	pid, err := strconv.Atoi(starts(file)[0])
	require.NoError(t, err)
	require.NotEqual(t, syscall.Getpgrp(), pgidOf(t, pid), "Ctrl-C in a terminal must reach the parent alone")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { return len(starts(file)) == 2 }, 10*time.Second, 10*time.Millisecond)
	cancel()
	assert.NoError(t, <-ended)
	second, err := strconv.Atoi(starts(file)[1])
	require.NoError(t, err)
	assert.ErrorIs(t, syscall.Kill(second, 0), syscall.ESRCH, "nobody is left")
}

func pgidOf(t *testing.T, pid int) int {
	t.Helper()
	id, err := syscall.Getpgid(pid)
	require.NoError(t, err)
	return id
}

func TestAChildThatNeverAnswersIsGivenUpSoon(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "starts")
	s := supervised(t, "http://localhost:1", `echo $$ >> "$1"; exit 3`, file)
	err := s.run(t.Context(), func() { assert.Fail(t, "it never answered") })
	require.ErrorContains(t, err, "child died 2 times in a row: exit status 3")
	assert.Len(t, starts(file), maxStillborn)
}

func TestAChildGetsNoSettingsOfItsParent(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"PATH=/bin", "X=CITYSYNC_Y"}, withoutSettings([]string{"PATH=/bin", "CITYSYNC_DATA=/x", "X=CITYSYNC_Y"}))
}
