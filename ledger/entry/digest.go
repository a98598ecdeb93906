package entry

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// Facts are what the public parts of the entries before a stateDigest come to. The digest is the SHA-256 of their text, one
// line for each, sorted, every line ended by a line feed; names are quoted as Go quotes strings, numbers are decimal:
//
//	"org.city-sync.digest.v1" entries rules
//	book name active dormant issued burned expired
//	epoch book key cap reserved outstanding minted votes burned expired tasks claims mints closed
//	issuer book key did allocation reserved outstanding minted claims
//	task first outstanding
//	units book key offering month units
//	hold seq amount
//	pause what subject org until
//
// The stock of a book is that of its last closing, its flows are those since; what woke is not among them, since no leaf shows it. There is a line for every book, every epoch
// that was opened (closed is 1 or 0), every issuer with an allocation; for tasks, units, holds and pauses only where there
// is something left: an outstanding reservation or units that are not 0, a hold that stands, a pause that was not resumed
// and whose time was not over at the digest's own time.
type Facts struct {
	Entries int64 // before the digest
	Rules   int64 // version in force
	lines   []string
}

func (f *Facts) add(format string, args ...any) {
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

// Book adds a book: its stock at the last closing, and its flows since.
func (f *Facts) Book(name string, active, dormant, issued, burned, expired int64) {
	f.add("book %q %d %d %d %d %d", name, active, dormant, issued, burned, expired)
}

// EpochSums are the sums of one epoch of a book.
type EpochSums struct {
	Cap, Reserved, Outstanding, Minted, Votes, Burned, Expired, Tasks, Claims, Mints int64
	Closed                                                                           bool
}

// Epoch adds an epoch that was opened.
func (f *Facts) Epoch(book, key string, s EpochSums) {
	closed := 0
	if s.Closed {
		closed = 1
	}
	f.add("epoch %q %q %d %d %d %d %d %d %d %d %d %d %d", book, key, s.Cap, s.Reserved, s.Outstanding, s.Minted, s.Votes, s.Burned,
		s.Expired, s.Tasks, s.Claims, s.Mints, closed)
}

// Issuer adds one issuer's part of an epoch.
func (f *Facts) Issuer(book, key, did string, allocation, reserved, outstanding, minted, claims int64) {
	f.add("issuer %q %q %q %d %d %d %d %d", book, key, did, allocation, reserved, outstanding, minted, claims)
}

// Task adds what is outstanding of a task's reservation, unless it is nothing.
func (f *Facts) Task(first string, outstanding int64) {
	if outstanding != 0 {
		f.add("task %q %d", first, outstanding)
	}
}

// Units adds what an offering has given in a month of an epoch, standing holds included, unless it is nothing.
func (f *Facts) Units(book, key, offering string, month, units int64) {
	if units != 0 {
		f.add("units %q %q %q %d %d", book, key, offering, month, units)
	}
}

// Hold adds a hold that stands.
func (f *Facts) Hold(seq, amount int64) { f.add("hold %d %d", seq, amount) }

// Pause adds a pause that is in force.
func (f *Facts) Pause(what, subject, org, until string) {
	f.add("pause %q %q %q %q", what, subject, org, until)
}

// Text is the canonical text of the facts.
func (f *Facts) Text() string {
	lines := slices.Sorted(slices.Values(f.lines))
	return fmt.Sprintf("%q %d %d\n", "org.city-sync.digest.v1", f.Entries, f.Rules) + strings.Join(append(lines, ""), "\n")
}

// Digest is the SHA-256 of the text.
func (f *Facts) Digest() [32]byte { return sha256.Sum256([]byte(f.Text())) }
