package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/identity"
)

// registerCommand gives a ledger its identity: an account on a PDS, whose DID document
// also names the ledger's own address. The key that may change the document later stays
// with the ledger's operator, above the PDS's. Done twice it changes nothing.
func registerCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "register",
		Usage: "make the ledger's account on a PDS and write the ledger's address into its DID document",
		Flags: []cli.Flag{
			stringFlag("pds-url", "", "`URL` of the PDS that is to host the account"),
			stringFlag("invite", "", "`CODE` from that PDS's operator; none for an account that exists"),
			stringFlag("handle", "", "`HANDLE` of the account"),
			stringFlag("public-url", "", "`URL` under which others will reach the ledger"),
			stringFlag("plc-url", "https://plc.directory", "`URL` of the did:plc directory"),
			boolFlag("allow-loopback", "let this command call services on this machine"),
			secretsFlag(fileRecovery, fileLogSeed, fileLedgerAccount),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			for _, flag := range []string{"pds-url", "handle", "public-url", "secrets"} {
				if c.String(flag) == "" {
					return fmt.Errorf("--%s is needed", flag)
				}
			}
			return register(ctx, c, s)
		},
	}
}

func register(ctx context.Context, c *cli.Command, s streams) error {
	public, err := httpURL("public-url", c.String("public-url"))
	if err != nil {
		return err
	}
	host, err := httpURL("pds-url", c.String("pds-url"))
	if err != nil {
		return err
	}
	read := alone{cmd: c}
	recoverySecret, err := read.secret(fileRecovery)
	if err != nil {
		return err
	}
	seed, err := read.secret(fileLogSeed)
	if err != nil {
		return err
	}
	password, err := readSecretFile(filepath.Join(c.String("secrets"), fileLedgerAccount))
	if err != nil {
		return err
	}
	recovery, err := rotationKey(recoverySecret)
	if err != nil {
		return err
	}
	recoveryDID, err := didKey(recovery)
	if err != nil {
		return err
	}
	hc := outbound(c.Bool("allow-loopback"))
	pds := newPDSClient(endpoint{base: host, http: hc})
	did, err := pds.resolve(ctx, c.String("handle"))
	if err != nil {
		return err
	}
	if did == "" {
		if c.String("invite") == "" {
			return errors.New("nobody has this handle yet: --invite is needed")
		}
		did, err = pds.createAccount(ctx, newAccount{
			Handle: c.String("handle"), Password: strings.TrimSpace(string(password)), InviteCode: c.String("invite"), RecoveryKey: recoveryDID,
		})
		if err != nil {
			return err
		}
	}
	if err := addService(ctx, identity.NewPLC(c.String("plc-url"), hc), did, recovery, fragmentLedger, typeLedger, public); err != nil {
		return err
	}
	_, vkey, err := logKeys(did, seed)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "ledger-did %s\nlog-vkey   %s\n", did, vkey)
	return nil
}
