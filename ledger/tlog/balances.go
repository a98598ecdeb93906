package tlog

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const balancesWord = "balances"

// BalancesLine is the extension line by which a checkpoint carries the roots over the balances: the seq of the stateDigest that
// has them, and the SHA-256 over its list.
func BalancesLine(seq int64, hash Hash) string {
	return fmt.Sprintf("%s %d %s", balancesWord, seq, base64.StdEncoding.EncodeToString(hash[:]))
}

// Balances reads the line that BalancesLine writes; false where the checkpoint has none. The error wraps ErrCheckpoint: a second
// line, one of another form, or one of an entry that the checkpoint does not cover.
func (c Checkpoint) Balances() (seq int64, hash Hash, ok bool, err error) {
	for _, x := range c.Extensions {
		rest, is := strings.CutPrefix(x, balancesWord+" ")
		if !is {
			continue
		}
		number, encoded, _ := strings.Cut(rest, " ")
		n, errN := strconv.ParseInt(number, 10, 64)
		h, errH := tlog.ParseHash(encoded)
		if ok || errN != nil || errH != nil || n < 0 || n >= c.Size || BalancesLine(n, h) != x {
			return 0, Hash{}, false, fmt.Errorf("%w: %.80q", ErrCheckpoint, x)
		}
		seq, hash, ok = n, h, true
	}
	return seq, hash, ok, nil
}
