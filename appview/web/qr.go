package web

import (
	"context"
	"errors"
	"slices"
	"strings"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/ledger/tlog"
)

// maxQR is how many bytes of a proof file one code takes: 2,953 fit the largest at the lowest level of repair.
const maxQR = 2900

// forCode gives the fullest proof file that fits a code, and the key of the phrase that says what it holds: all of it, no more cosignatures than
// the policy needs, or the log's signature alone. None fits: "".
func (p *Pages) forCode(ctx context.Context, proof *tlog.ProofFile, origin string) (file []byte, holds string, err error) {
	if file = proof.Encode(); len(file) <= maxQR {
		return file, "qrHolds", nil
	}
	alone := *proof
	if alone.Checkpoint, err = signedByLog(proof.Checkpoint, origin); err != nil {
		return nil, "", err
	}
	few := alone
	text, err := p.db.Policy(ctx)
	switch {
	case err == nil:
		if few.Checkpoint, err = quorumOf(proof.Checkpoint, alone.Checkpoint, text); err != nil {
			return nil, "", err
		}
	case !errors.Is(err, query.ErrNotFound):
		return nil, "", err
	}
	if file = few.Encode(); len(file) <= maxQR && len(few.Checkpoint) > len(alone.Checkpoint) {
		return file, "qrQuorum", nil
	}
	if file = alone.Encode(); len(file) <= maxQR {
		return file, "qrCommitted", nil
	}
	return nil, "", nil
}

// signedByLog is a signed note with the log's own signature lines alone.
func signedByLog(signed []byte, origin string) ([]byte, error) {
	text, err := tlog.NoteText(signed)
	if err != nil {
		return nil, err
	}
	out := text + "\n"
	for line := range strings.Lines(string(signed[len(text)+1:])) {
		if strings.HasPrefix(line, "— "+origin+" ") {
			out += line
		}
	}
	return []byte(out), nil
}

// quorumOf puts as many of a note's cosignatures under base as the policy needs.
func quorumOf(signed, base []byte, policy string) ([]byte, error) {
	rule, err := tlog.ParsePolicy([]byte(policy))
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(rule.Witnesses))
	for i, w := range rule.Witnesses {
		keys[i] = w.Key
	}
	had, err := tlog.Cosignatures(signed, keys...)
	if err != nil {
		return nil, err
	}
	by := make([]string, len(had))
	for i, c := range had {
		by[i] = c.Key
	}
	for i := len(by) - 1; i >= 0; i-- {
		if less := slices.Delete(slices.Clone(by), i, i+1); rule.Holds(less...) {
			by = less
		}
	}
	var lines []string
	for _, c := range had {
		if slices.Contains(by, c.Key) {
			lines = append(lines, c.Line)
		}
	}
	return tlog.AddLines(base, lines...)
}
