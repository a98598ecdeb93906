package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// A card is for people without a phone: a number, printed once, and a PIN.
const (
	cardDigits  = 12
	cardRefused = "CardRefused"
)

// newCardNumber draws ten digits and adds two that check them (ISO 7064, mod 97-10).
func newCardNumber() (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1e10))
	if err != nil {
		return "", fmt.Errorf("draw a card number: %w", err)
	}
	return fmt.Sprintf("%010d%02d", n.Int64(), 98-n.Int64()*100%97), nil
}

// normalCard reads a number as a cashier may type it. One with a slip of a finger is told from one that is unknown.
func normalCard(s string) (string, bool) {
	s = strings.NewReplacer(" ", "", "-", "").Replace(s)
	if len(s) != cardDigits || strings.Trim(s, "0123456789") != "" {
		return "", false
	}
	var rest int64
	for _, d := range s {
		rest = (rest*10 + int64(d-'0')) % 97
	}
	return s, rest == 1
}

// cardName is what stands for a number in the table. Ten digits are few, so it is as slow to make as a PIN's hash; the salt is the
// ledger's, because a card is looked up by it.
func (l *Ledger) cardName(ctx context.Context, number string) ([]byte, error) {
	salt := sha256.Sum256([]byte("org.city-sync.card.v1\x00" + l.cfg.DID.String()))
	return l.pins.hasher.Name(ctx, number, salt[:16])
}

// cardSecret is what a card's PIN is hashed with: the table alone does not let anybody try PINs.
func cardSecret(number, pin string) string { return number + " " + pin }

// tryCard gives whose card it is. A wrong number, a wrong PIN, a locked and an ended card answer alike, after the same work. A try is
// counted before it is made.
func (l *Ledger) tryCard(ctx context.Context, number, pin string) (account, name []byte, err error) {
	err = l.pins.with(func() error {
		if name, err = l.cardName(ctx, number); err != nil {
			return fmt.Errorf("card: %w", err)
		}
		const take = `update card set wrong = wrong + 1 where name = $1 and ended_at is null and wrong < $2 returning account, pin`
		var stored string // stays empty for a card that opens nothing: the work is done all the same
		err := l.store.pool.QueryRow(ctx, take, name, maxWrong).Scan(&account, &stored)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("card: %w", err)
		}
		same, err := l.pins.hasher.Matches(ctx, stored, cardSecret(number, pin))
		if err != nil {
			return fmt.Errorf("card: %w", err)
		}
		if !same {
			return refusedCard()
		}
		if _, err := l.store.pool.Exec(ctx, `update card set wrong = 0 where name = $1`, name); err != nil {
			return fmt.Errorf("card: %w", err)
		}
		return nil
	})
	return account, name, err
}

func refusedCard() *xrpc.Error {
	return xrpc.Errorf(http.StatusForbidden, cardRefused, "number or PIN is wrong, or the card is locked by %d wrong PINs or ended", maxWrong)
}

// keepCard gives a person a card in place of any before.
func keepCard(ctx context.Context, b *batch, account, name []byte, pin string) error {
	if err := endCards(ctx, b, account); err != nil {
		return err
	}
	const keep = `insert into card (name, account, pin, made_at) values ($1, $2, $3, $4) on conflict do nothing`
	tag, err := b.tx.Exec(ctx, keep, name, account, pin, b.now)
	if err != nil {
		return fmt.Errorf("keep card: %w", err)
	}
	if tag.RowsAffected() != 1 { // one chance in ten thousand million for each card there is
		return broken("a card number was drawn before")
	}
	return nil
}

func endCards(ctx context.Context, b *batch, account []byte) error {
	if _, err := b.tx.Exec(ctx, `update card set ended_at = $2 where account = $1 and ended_at is null`, account, b.now); err != nil {
		return fmt.Errorf("end card: %w", err)
	}
	return nil
}

// counterTables are what the counter keeps of a person beside the log. An account that is forgotten goes from each.
var counterTables = []string{"card", "code", "hold"}

// standingCard looks once more, in the order of commands, whether a card was ended since its PIN was tried.
func standingCard(ctx context.Context, b *batch, name []byte) error {
	var stands bool
	if err := b.tx.QueryRow(ctx, `select exists (select from card where name = $1 and ended_at is null)`, name).Scan(&stands); err != nil {
		return fmt.Errorf("card: %w", err)
	}
	if !stands {
		return refusedCard()
	}
	return nil
}
