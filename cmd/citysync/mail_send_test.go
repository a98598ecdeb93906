package main

import (
	"bufio"
	"context"
	"log/slog"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A mail server that takes one mail and keeps what it was told.
func takeMail(t *testing.T) (address string, told chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	told = make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		var all strings.Builder
		say := func(line string) { _, _ = conn.Write([]byte(line + "\r\n")) }
		say("220 mail.example ESMTP")
		in, data := bufio.NewScanner(conn), false
		for in.Scan() {
			line := in.Text()
			all.WriteString(line + "\n")
			switch {
			case data && line == ".":
				data = false
				say("250 taken")
			case data:
			case line == "DATA":
				data = true
				say("354 go on")
			case line == "QUIT":
				say("221 bye")
				told <- all.String()
				return
			default:
				say("250 fine")
			}
		}
	}()
	return l.Addr().String(), told
}

func TestMailIsSent(t *testing.T) {
	t.Parallel()
	address, told := takeMail(t)
	send := mailer("smtp://"+address, "no-reply@city.example")
	require.NoError(t, send(t.Context(), "ana@example.org", "Delete your account", "word: ABCDE\n"))
	text := <-told
	for _, want := range []string{"MAIL FROM:<no-reply@city.example>", "RCPT TO:<ana@example.org>", "Subject: Delete your account", "word: ABCDE"} {
		assert.Contains(t, text, want)
	}
	require.Error(t, send(t.Context(), "ana@example.org\r\nBcc: all@example.org", "x", "y"))
	require.Nil(t, mailer("", "no-reply@city.example"))
}

// mailTalk is a mail server that answers each command by its first word; a command it knows nothing of is refused.
func mailTalk(t *testing.T, greeting string, answers map[string]string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write([]byte(greeting))
		for in := bufio.NewScanner(conn); in.Scan(); {
			word, _, _ := strings.Cut(in.Text(), " ")
			answer, ok := answers[word]
			if !ok {
				answer = "502 unknown"
			}
			_, _ = conn.Write([]byte(answer + "\r\n"))
		}
	}()
	return l.Addr().String()
}

// The greeting alone would call a server fine that takes nobody's mail.
func TestMailServerIsReportedAsFarAsASessionGoes(t *testing.T) {
	t.Parallel()
	const hello = "220 mail.example ESMTP\r\n"
	all := map[string]string{"EHLO": "250-mail.example\r\n250 AUTH PLAIN", "AUTH": "235 welcome", "NOOP": "250 fine", "QUIT": "221 bye"}
	without := func(word, answer string) map[string]string {
		m := maps.Clone(all)
		m[word] = answer
		return m
	}
	for _, row := range []struct {
		what, url, says string
		ok              bool
	}{
		{"nothing set", "", notSet, false},
		{"no mail server's address", "http://mail.example", "UNUSABLE", false},
		{"it takes mail", "smtp://" + mailTalk(t, hello, all), "takes mail, NOT ENCRYPTED", true},
		{"with a password", "smtp://us%40er:p%40ss@" + mailTalk(t, hello, all), "takes mail, signed in, NOT ENCRYPTED", true},
		{"it refuses the password", "smtp://user:pass@" + mailTalk(t, hello, without("AUTH", "535 no")), "sign in at the mail server: 535", false},
		{"it greets with a refusal", "smtp://" + mailTalk(t, "554 go away\r\n", all), "UNREACHABLE", false},
		{"nobody is there", "smtp://127.0.0.1:1", "UNREACHABLE", false},
		{"it does not work", "smtp://" + mailTalk(t, hello, without("NOOP", "421 closing")), "UNREACHABLE", false},
	} {
		line, ok := checkMail(t.Context(), row.url)
		assert.Contains(t, line, row.says, row.what)
		assert.Equal(t, row.ok, ok, row.what)
		assert.NotContains(t, line, "pass@", row.what)
	}
}

func TestMailStateIsLoggedOnceAndMeasured(t *testing.T) {
	t.Parallel()
	address := mailTalk(t, "220 mail.example\r\n", map[string]string{"EHLO": "250 mail.example", "NOOP": "250 fine", "QUIT": "221 bye"})
	ctx, cancel := context.WithCancel(t.Context())
	registry, lines := prometheus.NewRegistry(), make(chan string, 10)
	log := slog.New(slog.NewTextHandler(lineWriter(lines), nil))
	done := make(chan error, 1)
	go func() { done <- watchMail(ctx, "smtp://"+address, log, registry) }()
	line := <-lines
	assert.Contains(t, line, "level=INFO")
	assert.Contains(t, line, "takes mail")
	got, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, got, 1)
	assert.Equal(t, "pds_mail_ready", got[0].GetName())
	assert.InDelta(t, 1, got[0].GetMetric()[0].GetGauge().GetValue(), 0)
	cancel()
	require.NoError(t, <-done)

	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- watchMail(ctx, "", log, prometheus.NewRegistry()) }()
	line = <-lines
	assert.Contains(t, line, "level=WARN")
	assert.Contains(t, line, notSet)
	cancel()
	require.NoError(t, <-done)
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
