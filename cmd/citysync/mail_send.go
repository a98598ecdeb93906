package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"mime"
	"net"
	"net/smtp"
	"net/url"
	"strings"
	"time"
)

// mailer sends over the mail server at a URL, whose user name is the sender where it is an address; nil where none is set.
func mailer(raw, from string) func(ctx context.Context, to, subject, text string) error {
	u, err := url.Parse(raw)
	if raw == "" || err != nil {
		return nil
	}
	if u.User != nil && strings.Contains(u.User.Username(), "@") {
		from = u.User.Username()
	}
	return func(ctx context.Context, to, subject, text string) error {
		if strings.ContainsAny(to+from, "\r\n") {
			return fmt.Errorf("address %q is no line", to)
		}
		message := "From: " + from + "\r\nTo: " + to + "\r\nSubject: " + mime.QEncoding.Encode("utf-8", subject) +
			"\r\nDate: " + time.Now().UTC().Format(time.RFC1123Z) + "\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" +
			strings.ReplaceAll(text, "\n", "\r\n")
		return sendMail(ctx, u, from, to, []byte(message))
	}
}

func sendMail(ctx context.Context, u *url.URL, from, to string, message []byte) (err error) {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	conn, err := dialMail(ctx, u)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close() // the first error counts
		return err
	}
	c, err := smtp.NewClient(conn, u.Hostname())
	if err != nil {
		_ = conn.Close() // the first error counts
		return fmt.Errorf("greet the mail server: %w", err)
	}
	defer func() { _ = c.Close() }() // after Quit there is nothing left to lose
	if ok, _ := c.Extension("STARTTLS"); ok && u.Scheme == schemeSMTP {
		if err := c.StartTLS(&tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}); err != nil {
			return fmt.Errorf("encrypt to the mail server: %w", err)
		}
	}
	if password, has := u.User.Password(); has {
		if err := c.Auth(smtp.PlainAuth("", u.User.Username(), password, u.Hostname())); err != nil {
			return fmt.Errorf("sign in at the mail server: %w", err)
		}
	}
	if err := c.Mail(from); err != nil {
		return fmt.Errorf("mail from: %w", err)
	}
	if err := c.Rcpt(to); err != nil {
		return fmt.Errorf("mail to: %w", err)
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	if _, err := w.Write(message); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	return c.Quit()
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

// hostOf is the host's name in an address.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "localhost"
	}
	return u.Hostname()
}
