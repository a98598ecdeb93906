package main

import (
	"context"
	"fmt"
	"mime"
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
	c, err := openMail(ctx, u)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // after Quit there is nothing left to lose
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

// hostOf is the host's name in an address.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "localhost"
	}
	return u.Hostname()
}
