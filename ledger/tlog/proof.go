package tlog

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrProof means that a proof does not hold. Final.
var ErrProof = errors.New("proof does not hold")

// ProveInclusion proves that the leaf at index stands in the tree of the first size leaves.
func ProveInclusion(size, index int64, nodes Nodes) ([]Hash, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("inclusion of leaf %d in %d", index, size)
	}
	p, err := tlog.ProveRecord(size, index, nodes)
	if err != nil {
		return nil, fmt.Errorf("inclusion of leaf %d in %d: %w", index, size, err)
	}
	return p, nil
}

// CheckInclusion checks such a proof. The error wraps ErrProof.
func CheckInclusion(proof []Hash, size int64, root Hash, index int64, leaf Hash) error {
	if index < 0 || index >= size {
		return fmt.Errorf("%w: leaf %d of %d", ErrProof, index, size)
	}
	if err := tlog.CheckRecord(proof, size, root, index, leaf); err != nil {
		return fmt.Errorf("%w: leaf %d of %d: %w", ErrProof, index, size, err)
	}
	return nil
}

// ProveConsistency proves that the tree of size leaves continues that of old leaves.
func ProveConsistency(size, old int64, nodes Nodes) ([]Hash, error) {
	if old < 0 || old > size {
		return nil, fmt.Errorf("consistency of %d with %d", size, old)
	}
	if old == 0 || old == size {
		return nil, nil
	}
	p, err := tlog.ProveTree(size, old, nodes)
	if err != nil {
		return nil, fmt.Errorf("consistency of %d with %d: %w", size, old, err)
	}
	return p, nil
}

// CheckConsistency checks such a proof. The error wraps ErrProof.
func CheckConsistency(proof []Hash, size int64, root Hash, old int64, oldRoot Hash) error {
	if old == size {
		if len(proof) != 0 || root != oldRoot {
			return fmt.Errorf("%w: two roots of %d leaves", ErrProof, size)
		}
		return nil
	}
	if old == 0 {
		empty, err := tlog.TreeHash(0, nil)
		if err != nil || size < 0 || len(proof) != 0 || oldRoot != empty {
			return fmt.Errorf("%w: not the root of no leaves", ErrProof)
		}
		return nil
	}
	if old < 0 || old > size {
		return fmt.Errorf("%w: %d leaves after %d", ErrProof, size, old)
	}
	if err := tlog.CheckTree(proof, size, root, old, oldRoot); err != nil {
		return fmt.Errorf("%w: %d leaves after %d: %w", ErrProof, size, old, err)
	}
	return nil
}
