package main

import (
	"bufio"
	"net"
	"strings"
	"testing"

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
