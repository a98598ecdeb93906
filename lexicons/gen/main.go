// Command gen writes everything under lexicons that follows from the JSON
// schemas: the Go types with their CBOR methods (packages citysync and
// community) and the constants for NSIDs and tokens (nsid_gen.go).
//
// It works in a temporary folder and touches the tree only at the end, and
// only files whose bytes differ, so that a failed run leaves nothing behind
// and a second run changes nothing.
//
// Invariants:
//
//	G1  the same schemas give the same bytes;
//	G2  a file that no schema asks for any more is removed;
//	G3  the tree is not touched unless every step succeeded.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modulePath is the import path of the module whose schemas are compiled.
const modulePath = "city-sync.org/citysync"

// goPackages are the generated packages, by folder below lexicons.
var goPackages = []string{"citysync", "community"}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "lexicons/gen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp("", "citysync-gen-")
	if err != nil {
		return fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(stage) }()

	src := filepath.Join(root, "lexicons")
	schemas, err := readSchemas(src)
	if err != nil {
		return err
	}
	if err := writeTypes(schemas, stage); err != nil {
		return err
	}
	if err := writeCBOR(ctx, root, stage); err != nil {
		return err
	}
	consts, err := constants(schemas)
	if err != nil {
		return err
	}
	for _, pkg := range goPackages {
		if err := install(filepath.Join(stage, pkg), filepath.Join(src, pkg)); err != nil {
			return err
		}
	}
	return replace(filepath.Join(src, "nsid_gen.go"), consts)
}

// moduleRoot finds the folder of go.mod and checks that it is ours.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	mod, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("go.mod: %w", err)
	}
	if !strings.Contains(string(mod), "module "+modulePath+"\n") {
		return "", fmt.Errorf("%s is not module %s", file, modulePath)
	}
	return filepath.Dir(file), nil
}

// install makes the Go files of dst equal to those of src.
func install(src, dst string) error {
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	fresh, err := filepath.Glob(filepath.Join(src, "*.go"))
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, f := range fresh {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		want[filepath.Base(f)] = true
		if err := replace(filepath.Join(dst, filepath.Base(f)), b); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(dst, "*.go"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if !want[filepath.Base(f)] {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace writes a file whose content differs; the rename keeps a reader from
// seeing half of it.
func replace(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
