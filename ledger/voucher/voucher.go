// Package voucher is what a resident shows at a till that cannot ask: a note signed with the ledger's log key, which the
// till checks by itself.
//
// The text has one form, a line each, so that any language reads it:
//
//	org.city-sync.voucher.v1
//	ledger did:plc:…
//	what burn
//	till ml2p…
//	offering at://did:plc:…/org.city-sync.offer.offering/3l…
//	version bafy…
//	units 1
//	credits 8
//	receipt 000000000123
//	code ABCDEFGH
//	issued 2027-01-13T20:00:00Z
//	expires 2027-01-14T08:00:00Z
//
// After it comes an empty line and the signature line of a C2SP signed note. The key is the log's, under a name of its own:
// the log's with "/voucher" after it. While the log changes its key there are two lines, one by each: a till that is away
// knows only the key of before. No voucher is a checkpoint, whose first line is the name of the log, and no
// checkpoint is a voucher.
package voucher

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// What a voucher stands for.
const (
	Burn = "burn" // redeemed already, for this till
	Hold = "hold" // put aside for this till, which tells the ledger when it can
)

// MaxNote bounds the bytes of a signed voucher: it fits into a QR code.
const MaxNote = 2048

const (
	firstLine = "org.city-sync.voucher.v1"
	keyName   = "/voucher"
	skew      = 5 * time.Minute // between the till's clock and the ledger's
	noCode    = "-"
)

var (
	// ErrVoucher means that a note is no voucher, or is not signed by this ledger. Final.
	ErrVoucher = errors.New("no voucher of this ledger")
	// ErrOtherTill means that a voucher is for another till. Final.
	ErrOtherTill = errors.New("voucher is for another till")
	// ErrTime means that a voucher is over, or not good yet.
	ErrTime = errors.New("voucher is not good at this time")
)

// Voucher is what the ledger says.
type Voucher struct {
	Ledger    string // origin of the log
	What      string
	Till      string
	Offering  string
	Version   string // cid
	Units     int64
	Credits   int64
	Receipt   int64  // seq of the burn or the hold: a till that sees one twice has been shown it twice
	Code      string // that undoes a burn; none for a hold
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// Text is the voucher's note text.
func (v Voucher) Text() string {
	code := v.Code
	if code == "" {
		code = noCode
	}
	return fmt.Sprintf("%s\nledger %s\nwhat %s\ntill %s\noffering %s\nversion %s\nunits %d\ncredits %d\nreceipt %012d\ncode %s\nissued %s\nexpires %s\n",
		firstLine, v.Ledger, v.What, v.Till, v.Offering, v.Version, v.Units, v.Credits, v.Receipt, code, stamp(v.IssuedAt), stamp(v.ExpiresAt))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Parse reads what Text writes, and nothing else. The error wraps ErrVoucher.
func Parse(text string) (Voucher, error) {
	lines := strings.Split(text, "\n")
	names := []string{"ledger", "what", "till", "offering", "version", "units", "credits", "receipt", "code", "issued", "expires"}
	if len(text) > MaxNote || len(lines) != len(names)+2 || lines[0] != firstLine {
		return Voucher{}, fmt.Errorf("%w: another form", ErrVoucher)
	}
	f := map[string]string{}
	for i, name := range names {
		value, ok := strings.CutPrefix(lines[i+1], name+" ")
		if !ok || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }) {
			return Voucher{}, fmt.Errorf("%w: line %d is no %s", ErrVoucher, i+2, name)
		}
		f[name] = value
	}
	v := Voucher{Ledger: f["ledger"], What: f["what"], Till: f["till"], Offering: f["offering"], Version: f["version"], Code: f["code"]}
	if v.Code == noCode {
		v.Code = ""
	}
	var errs [5]error
	v.Units, errs[0] = strconv.ParseInt(f["units"], 10, 64)
	v.Credits, errs[1] = strconv.ParseInt(f["credits"], 10, 64)
	v.Receipt, errs[2] = strconv.ParseInt(f["receipt"], 10, 64)
	v.IssuedAt, errs[3] = time.Parse(time.RFC3339, f["issued"])
	v.ExpiresAt, errs[4] = time.Parse(time.RFC3339, f["expires"])
	if err := errors.Join(errs[:]...); err != nil {
		return Voucher{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	if v.Text() != text || (v.What != Burn && v.What != Hold) || v.Units < 1 || v.Credits < 1 || v.Receipt < 0 {
		return Voucher{}, fmt.Errorf("%w: not in its one form", ErrVoucher)
	}
	return v, nil
}

// Sign gives the signed note under the log's secret keys: one, or both while it changes its key.
func Sign(v Voucher, skeys ...string) ([]byte, error) {
	if _, err := Parse(v.Text()); err != nil {
		return nil, err
	}
	if len(skeys) == 0 {
		return nil, errors.New("voucher: no log key")
	}
	var signers []note.Signer
	for _, skey := range skeys {
		s, err := signerOf(skey, v.Ledger)
		if err != nil {
			return nil, fmt.Errorf("voucher: log key: %w", err)
		}
		signers = append(signers, s)
	}
	signed, err := note.Sign(&note.Note{Text: v.Text()}, signers...)
	if err != nil {
		return nil, fmt.Errorf("voucher: %w", err)
	}
	if len(signed) > MaxNote {
		return nil, fmt.Errorf("%w: %d bytes", ErrVoucher, len(signed))
	}
	return signed, nil
}

// signerOf is the log's key under the name that vouchers have.
func signerOf(skey, ledger string) (note.Signer, error) {
	if _, err := note.NewSigner(skey); err != nil {
		return nil, err
	}
	parts := strings.SplitN(skey, "+", 5) // PRIVATE+KEY+name+hash+base64, as the signer has checked
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil {
		return nil, err
	}
	public, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok || parts[2] != ledger {
		return nil, fmt.Errorf("it is named %q, the ledger %q", parts[2], ledger)
	}
	vkey, err := note.NewEd25519VerifierKey(ledger+keyName, public)
	if err != nil {
		return nil, err
	}
	hash := strings.SplitN(vkey, "+", 3)[1]
	return note.NewSigner("PRIVATE+KEY+" + ledger + keyName + "+" + hash + "+" + parts[4])
}

// Open checks a signed note under the log's public key, as actor.city names it. The error wraps ErrVoucher.
func Open(signed []byte, vkey string) (Voucher, error) {
	if len(signed) > MaxNote {
		return Voucher{}, fmt.Errorf("%w: %d bytes", ErrVoucher, len(signed))
	}
	log, err := note.NewVerifier(vkey)
	if err != nil {
		return Voucher{}, fmt.Errorf("%w: log key: %w", ErrVoucher, err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return Voucher{}, fmt.Errorf("%w: log key is not on Ed25519", ErrVoucher)
	}
	own, err := note.NewEd25519VerifierKey(log.Name()+keyName, raw[1:])
	if err != nil {
		return Voucher{}, fmt.Errorf("%w: log key: %w", ErrVoucher, err)
	}
	verifier, err := note.NewVerifier(own)
	if err != nil {
		return Voucher{}, fmt.Errorf("%w: log key: %w", ErrVoucher, err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return Voucher{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	v, err := Parse(n.Text)
	if err != nil {
		return Voucher{}, err
	}
	if v.Ledger != log.Name() {
		return Voucher{}, fmt.Errorf("%w: of %q, signed as %q", ErrVoucher, v.Ledger, log.Name())
	}
	return v, nil
}

// Check is what a till does that cannot ask: signed by this ledger, for this till, and good now. What it cannot see is
// whether the voucher was shown before: the till keeps the receipts it honored until their vouchers end.
func Check(signed []byte, vkey, till string, now time.Time) (Voucher, error) {
	v, err := Open(signed, vkey)
	if err != nil {
		return Voucher{}, err
	}
	if v.Till != till {
		return Voucher{}, fmt.Errorf("%w: %s, not %s", ErrOtherTill, v.Till, till)
	}
	if now.Before(v.IssuedAt.Add(-skew)) || !now.Before(v.ExpiresAt) {
		return Voucher{}, fmt.Errorf("%w: from %s to %s", ErrTime, stamp(v.IssuedAt), stamp(v.ExpiresAt))
	}
	return v, nil
}
