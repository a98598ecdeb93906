package pds

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

//go:embed reserved.txt
var defaultNames string

const maxReservedNames = 100_000

// DefaultReservedNames are the labels that nobody may register where the operator has no list.
func DefaultReservedNames() []string {
	names, err := ParseReservedNames(defaultNames)
	if err != nil {
		panic(fmt.Sprintf("pds: reserved.txt: %v", err)) // a fault of this program, seen at its first start
	}
	return names
}

// ParseReservedNames reads one label a line; what follows a # is a remark.
func ParseReservedNames(text string) ([]string, error) {
	var names []string
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		name := strings.ToLower(strings.TrimSpace(line))
		if name == "" {
			continue
		}
		if _, err := syntax.ParseHandle(name + ".test"); err != nil || strings.Contains(name, ".") {
			return nil, fmt.Errorf("line %d: %q is no label of a handle", n, name)
		}
		if names = append(names, name); len(names) > maxReservedNames {
			return nil, fmt.Errorf("more than %d names", maxReservedNames)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
