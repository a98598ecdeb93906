package web

import (
	"fmt"
	"strings"

	"city-sync.org/citysync/appview/query"
)

// final says in the page's language how final the entry at seq is.
func (l layout) EntryFinal(seq int64) string {
	f := l.Finality
	switch f.Entry(seq) {
	case "cosigned":
		return fmt.Sprintf(l.T("final.entryCosigned"), len(f.Cosigned.Witnesses), f.Cosigned.Members, number(f.Cosigned.Size))
	case "committed":
		return fmt.Sprintf(l.T("final.entryCommitted"), number(f.Size)) + " " + l.notYet()
	}
	return l.T("final.unknown")
}

// Final says how final the figures of a page are.
func (l layout) Final() string {
	f := l.Finality
	said := fmt.Sprintf(l.T("final.committed"), number(f.Size))
	if f.Cosigned == nil {
		return said + " " + l.notYet()
	}
	return said + " " + fmt.Sprintf(l.T("final.cosigned"), len(f.Cosigned.Witnesses), f.Cosigned.Members, number(f.Cosigned.Size), l.Minute(f.Cosigned.At))
}

// notYet says why something committed is not cosigned.
func (l layout) notYet() string {
	switch {
	case !l.Finality.Policy:
		return l.T("final.nobody")
	case l.Finality.Cosigned == nil:
		return l.T("final.noQuorum")
	}
	return fmt.Sprintf(l.T("final.behind"), number(l.Finality.Cosigned.Size))
}

// WitnessNames lists who signed.
func (l layout) WitnessNames() string {
	var names []string
	if l.Finality.Cosigned != nil {
		for _, w := range l.Finality.Cosigned.Witnesses {
			names = append(names, witnessName(w))
		}
	}
	return strings.Join(names, ", ")
}

// witnessName is the institution's name, else that of its key.
func witnessName(w query.Witness) string {
	if w.Name != "" {
		return w.Name
	}
	name, _, _ := strings.Cut(w.Key, "+")
	return name
}
