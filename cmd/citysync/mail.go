package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

const (
	mailTimeout  = 5 * time.Second
	maxGreeting  = 512
	portSMTP     = "25"
	portSMTPS    = "465"
	notSet       = "not set: no mail is sent"
	schemeSMTP   = "smtp"
	schemeSMTPS  = "smtps"
	greetingCode = "220"
)

// checkMail connects to the mail server and reads its greeting, and says in one line
// what came of it. A city without mail runs; it must only not be silent about it.
func checkMail(ctx context.Context, raw string) string {
	if raw == "" {
		return notSet
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != schemeSMTP && u.Scheme != schemeSMTPS || u.Hostname() == "" {
		return "UNUSABLE: --smtp-url is not smtp://HOST[:PORT] or smtps://HOST[:PORT]"
	}
	greeting, err := readGreeting(ctx, u)
	if err != nil {
		return fmt.Sprintf("UNREACHABLE: %s: %v", u.Host, err)
	}
	return fmt.Sprintf("%s answers %q", u.Host, greeting)
}

func readGreeting(ctx context.Context, u *url.URL) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	conn, err := dialMail(ctx, u)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // all that was wanted has been read
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxGreeting)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no greeting: %w", err)
	}
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, greetingCode) {
		return "", fmt.Errorf("greeting %q is not that of a mail server", line)
	}
	return line, nil
}
