package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/smtp"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	mailTimeout = 5 * time.Second
	mailEvery   = 10 * time.Minute // between two looks at the mail server
	portSMTP    = "25"
	portSMTPS   = "465"
	notSet      = "not set: no mail is sent"
	schemeSMTP  = "smtp"
	schemeSMTPS = "smtps"
)

// checkMail goes as far with the mail server as it can without sending anything, and says in one line what came of it. A city without mail
// runs; it must only not be silent about it.
func checkMail(ctx context.Context, raw string) (line string, ok bool) {
	if raw == "" {
		return notSet, false
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != schemeSMTP && u.Scheme != schemeSMTPS || u.Hostname() == "" {
		return "UNUSABLE: --smtp-url is not smtp://HOST[:PORT] or smtps://HOST[:PORT]", false
	}
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	c, err := openMail(ctx, u)
	if err != nil {
		return fmt.Sprintf("UNREACHABLE: %s: %v", u.Host, err), false
	}
	defer func() { _ = c.Close() }() // all that was wanted has been asked
	if err := c.Noop(); err != nil {
		return fmt.Sprintf("UNREACHABLE: %s: %v", u.Host, err), false
	}
	line = u.Host + " takes mail"
	if _, has := u.User.Password(); has {
		line += ", signed in"
	}
	if _, encrypted := c.TLSConnectionState(); !encrypted {
		line += ", NOT ENCRYPTED"
	}
	return line, c.Quit() == nil
}

// openMail connects, encrypts where that is to be had, and signs in where there is a password.
func openMail(ctx context.Context, u *url.URL) (_ *smtp.Client, err error) {
	conn, err := dialMail(ctx, u)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close() // the first error counts
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	c, err := smtp.NewClient(conn, u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("greet the mail server: %w", err)
	}
	if ok, _ := c.Extension("STARTTLS"); ok && u.Scheme == schemeSMTP {
		if err := c.StartTLS(&tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}); err != nil {
			return nil, fmt.Errorf("encrypt to the mail server: %w", err)
		}
	}
	if password, has := u.User.Password(); has {
		if err := c.Auth(smtp.PlainAuth("", u.User.Username(), password, u.Hostname())); err != nil {
			return nil, fmt.Errorf("sign in at the mail server: %w", err)
		}
	}
	return c, nil
}

// dialMail connects in clear for smtp, and by TLS for smtps.
func dialMail(ctx context.Context, u *url.URL) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		if port = portSMTP; u.Scheme == schemeSMTPS {
			port = portSMTPS
		}
	}
	address := net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == schemeSMTPS {
		d := tls.Dialer{Config: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}}
		return d.DialContext(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// watchMail tells at the start, and whenever it changes, whether mail can be sent, and keeps a metric of it until ctx ends.
func watchMail(ctx context.Context, raw string, log *slog.Logger, r prometheus.Registerer) error {
	ready := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "pds", Name: "mail_ready", Help: "Whether the mail server took a session at the last look: 1, or 0, also where none is set.",
	})
	if err := r.Register(ready); err != nil {
		return err
	}
	tick := time.NewTicker(mailEvery)
	defer tick.Stop()
	last := ""
	for {
		line, ok := checkMail(ctx, raw)
		if ctx.Err() != nil {
			return nil
		}
		ready.Set(0)
		level := slog.LevelWarn
		if ok {
			ready.Set(1)
			level = slog.LevelInfo
		}
		if line != last {
			log.Log(ctx, level, "mail", "state", line)
			last = line
		}
		if raw == "" {
			<-ctx.Done() // nothing that could change
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
