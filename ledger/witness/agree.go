package witness

import (
	"fmt"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Agree signs that a new key may continue the log after a checkpoint of it: the copy in the folder has all of its entries, and
// nothing that we cosigned comes after them. Without a note it is the checkpoint that we cosigned last.
func Agree(path, origin string, key *tlog.Cosigner, note []byte, logKeys []string, newKey string) (entry.Sign, tlog.Checkpoint, error) {
	var none entry.Sign
	f := &folder{path: path}
	s, err := f.readState()
	switch {
	case err != nil:
		return none, tlog.Checkpoint{}, err
	case s == nil || s.Origin != origin || s.Witness != key.VerifierKey():
		return none, tlog.Checkpoint{}, fmt.Errorf("copy: %s has none of %s by this witness", path, origin)
	}
	if note == nil {
		note = []byte(s.Note)
	}
	c, _, err := tlog.OpenAny(note, logKeys...)
	if err != nil || c.Origin != origin {
		return none, c, fmt.Errorf("copy: no checkpoint of %s: %w", origin, err)
	}
	if c.Size < s.Size || c.Size > s.Audited {
		return none, c, fmt.Errorf("copy: the checkpoint has %d entries; %d are cosigned here and %d re-executed", c.Size, s.Size, s.Audited)
	}
	var tree tlog.Tree
	if err := f.leaves(c.Size, func(_ int64, leaf []byte) error { return tree.Append(leaf) }); err != nil {
		return none, c, err
	}
	if root, err := tree.Root(c.Size); err != nil || root != c.Root {
		return none, c, fmt.Errorf("copy: the checkpoint is of another history: %w", err)
	}
	sig, err := key.SignData(tlog.SuccessionText(origin, c.Size, c.Root, newKey))
	return entry.Sign{Key: key.VerifierKey(), Sig: sig}, c, err
}
