package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"text/template"
)

// writeCBOR adds cbor_gen.go to each staged package. cbor-gen reflects on
// compiled types, so a small program that imports the staged packages is run
// through an overlay: to the compiler they stand in the tree, while the tree
// itself is left alone. Stub methods make the packages compile before the real
// ones exist.
func writeCBOR(ctx context.Context, root, stage string) error {
	overlay := map[string]string{}
	var jobs []cborJob
	for _, pkg := range goPackages {
		types, err := structsWithoutCBOR(filepath.Join(stage, pkg))
		if err != nil {
			return err
		}
		stub := filepath.Join(stage, "stub_"+pkg+".go")
		if err := writeTemplate(stub, stubTemplate, cborJob{Package: pkg, Types: types}); err != nil {
			return err
		}
		if err := overlayPackage(overlay, filepath.Join(root, "lexicons", pkg), filepath.Join(stage, pkg), stub); err != nil {
			return err
		}
		jobs = append(jobs, cborJob{
			Package: pkg, Types: types,
			Import: modulePath + "/lexicons/" + pkg,
			Out:    filepath.Join(stage, pkg, "cbor_gen.go"),
		})
	}
	program := filepath.Join(stage, "cbor_main.go")
	if err := writeTemplate(program, programTemplate, jobs); err != nil {
		return err
	}
	overlay[filepath.Join(root, "lexicons", "gen", "cborgen", "main.go")] = program

	plan, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return err
	}
	planFile := filepath.Join(stage, "overlay.json")
	if err := os.WriteFile(planFile, plan, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "-overlay", planFile, "./lexicons/gen/cborgen")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cbor-gen: %w\n%s", err, out)
	}
	return nil
}

// overlayPackage hides the package as it is in the tree and puts the staged
// files and the stub in its place.
func overlayPackage(overlay map[string]string, tree, staged, stub string) error {
	old, err := filepath.Glob(filepath.Join(tree, "*.go"))
	if err != nil {
		return err
	}
	for _, f := range old {
		overlay[f] = ""
	}
	fresh, err := filepath.Glob(filepath.Join(staged, "*.go"))
	if err != nil {
		return err
	}
	for _, f := range fresh {
		overlay[filepath.Join(tree, filepath.Base(f))] = f
	}
	overlay[filepath.Join(tree, "cbor_gen.go")] = stub
	return nil
}

// structsWithoutCBOR names the struct types of a staged package for which
// lexgen wrote no MarshalCBOR of its own (it does for unions).
func structsWithoutCBOR(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	structs, done := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse generated %s: %w", filepath.Base(f), err)
		}
		for _, decl := range tree.Decls {
			switch d := decl.(type) {
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok {
						if _, ok := ts.Type.(*ast.StructType); ok {
							structs[ts.Name.Name] = true
						}
					}
				}
			case *ast.FuncDecl:
				if d.Recv != nil && d.Name.Name == "MarshalCBOR" {
					if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok {
						done[fmt.Sprint(star.X)] = true
					}
				}
			}
		}
	}
	var out []string
	for name := range structs {
		if !done[name] {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out, nil
}

type cborJob struct {
	Package, Import, Out string
	Types                []string
}

func writeTemplate(path, text string, data any) error {
	t, err := template.New(filepath.Base(path)).Parse(strings.TrimLeft(text, "\n"))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

const stubTemplate = `
package {{.Package}}

import "io"
{{range .Types}}
func (t *{{.}}) MarshalCBOR(io.Writer) error { return nil }
func (t *{{.}}) UnmarshalCBOR(io.Reader) error { return nil }
{{end}}`

const programTemplate = `
package main

import (
	"fmt"
	"os"

	cbg "github.com/whyrusleeping/cbor-gen"
{{range .}}
	{{printf "%q" .Import}}{{end}}
)

func main() {
	cfg := cbg.Gen{MaxStringLength: 1_000_000}
	for _, err := range []error{
{{range $job := .}}		cfg.WriteMapEncodersToFile({{printf "%q" .Out}}, {{printf "%q" .Package}},
{{range .Types}}			{{$job.Package}}.{{.}}{},
{{end}}		),
{{end}}	} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
`
