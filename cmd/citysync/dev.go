package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/service"
)

const (
	idCity   = city.IDCity
	idLedger = city.IDLedger

	roleCity   = "city"
	roleLedger = "ledger"

	defaultCity = "berkeley"
)

// devConfig is what dev's flags say. The fields that end in Set tell a flag that was
// given from its default: a resumed city keeps what it was founded with.
type devConfig struct {
	Data        string
	City        string
	CitySet     bool
	Fresh       bool
	PortBase    int
	PortSet     bool
	ReadyFile   string
	DatabaseURL string
	PLCURL      string
	SMTPURL     string
	Calendar    string
	CalendarSet bool
	Separate    bool
	SecondPDS   bool
	Witnesses   int
	WitnessSet  bool
	Program     string // what runs a service apart; this program itself where empty

	clock clock.Clock // of the services in this process; the system's where nil
}

func devCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "dev",
		Usage: "run a whole city, until it is interrupted",
		Flags: []cli.Flag{
			stringFlag("data", "", "data `FOLDER` (default: /var/lib/citysync for root, otherwise the user's data folder)"),
			stringFlag("city", defaultCity, "city to found: "+strings.Join(city.Embedded(), ", ")+" or a `FOLDER` of the same shape"),
			boolFlag("fresh", "empty the data folder and the database first, if they carry this program's mark"),
			intFlag("port-base", defaultPortBase, "`PORT` of the web; pds, ledger, plc and the private listener follow; 0 takes a free run"),
			stringFlag("ready-file", "", "`FILE` to write when the city is open"),
			stringFlag("database-url", "", "PostgreSQL `DSN`; a private server is started without it"),
			stringFlag("plc-url", "", "`URL` of an outside did:plc directory; a loopback one is started without it"),
			stringFlag("smtp-url", "", "`URL` of a mail server, checked at start"),
			boolFlag("separate", "run pds, ledger and appview as processes of their own, each with its own database and role"),
			boolFlag("second-pds", "found the city with a second PDS, at port-base + 5, on which part of it lives"),
			intFlag("witnesses", defaultWitnesses, "`NUMBER` of institutions that keep a copy of the log and cosign it, from port-base + 6 on; 0 for none"),
			stringFlag("calendar", calendarNow, "now: move the folder's dates so that today lies in the second week of the epoch; as-written: move nothing"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			cfg, err := devFlags(c)
			if err != nil {
				return err
			}
			return runDev(ctx, cfg, s, obs.Logger(s.err, false, slog.LevelInfo))
		},
	}
}

func devFlags(c *cli.Command) (devConfig, error) {
	cfg := devConfig{
		Data: c.String("data"), City: c.String("city"), CitySet: c.IsSet("city"), Fresh: c.Bool("fresh"),
		PortBase: c.Int("port-base"), PortSet: c.IsSet("port-base"), ReadyFile: c.String("ready-file"),
		DatabaseURL: c.String("database-url"), SMTPURL: c.String("smtp-url"),
		Calendar: c.String("calendar"), CalendarSet: c.IsSet("calendar"),
		Separate: c.Bool("separate"), SecondPDS: c.Bool("second-pds"), Witnesses: c.Int("witnesses"), WitnessSet: c.IsSet("witnesses"),
	}
	if err := noArguments(c); err != nil {
		return cfg, err
	}
	if cfg.Calendar != calendarNow && cfg.Calendar != calendarAsWritten {
		return cfg, fmt.Errorf("--calendar %q is neither now nor as-written", cfg.Calendar)
	}
	if cfg.Witnesses < 0 || cfg.Witnesses > maxWitnesses {
		return cfg, fmt.Errorf("--witnesses %d: 0 to %d", cfg.Witnesses, maxWitnesses)
	}
	var err error
	if u := c.String("plc-url"); u != "" {
		if cfg.PLCURL, err = httpURL("plc-url", u); err != nil {
			return cfg, err
		}
	}
	if cfg.Data == "" {
		cfg.Data, err = defaultData()
	}
	return cfg, err
}

// runDev founds or resumes a city and keeps it running until ctx ends.
func runDev(ctx context.Context, cfg devConfig, s streams, log *slog.Logger) error {
	mail, _ := checkMail(ctx, cfg.SMTPURL)
	folder, err := city.Folder(cfg.City)
	if err != nil && (cfg.CitySet || cfg.Fresh) {
		return err
	}
	dir, err := openDataDir(cfg.Data)
	if cfg.ReadyFile != "" && !refusedAs(err, "InUse") { // where another citysync works, the file may be its own
		if err := removeReady(cfg.ReadyFile); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer dir.close()
	if cfg.ReadyFile != "" {
		if _, err := os.Stat(filepath.Dir(cfg.ReadyFile)); err != nil {
			return fmt.Errorf("ready file: %w", err) // now, not when the city is open
		}
	}
	state, plan, err := foundOrResume(ctx, dir, cfg, folder, clock.System())
	if err != nil {
		return err
	}
	cfg.PLCURL = state.PLCURL
	count := portPDS2
	if state.SecondPDS {
		count = portPDS2 + 1
	}
	if state.Witnesses > 0 {
		count = portWitness + state.Witnesses
	}
	open, err := listenAll(state.PortBase, count)
	if err != nil {
		return err
	}
	defer open.close()
	if state.PortBase == 0 {
		state.PortBase = open.base
	}
	if err := dir.saveState(state); err != nil {
		return err
	}
	st, err := newStack(cfg, dir, state, plan, open, s.err, log)
	if err != nil {
		return err
	}
	final := part("city", func(ctx context.Context, ready func()) error { return st.runCity(ctx, mail, s, ready) })
	err = service.Run(ctx, log, st.parts(final)...)
	if err != nil && ctx.Err() != nil && !st.ready.Load() {
		// Asked to stop while it was starting: what was under way ended in the middle, and
		// the next start takes it up.
		log.Info("stopped before the city was open", "last", err.Error())
		return nil
	}
	return err
}

// foundOrResume gives the city of the data folder, or starts a new one in it.
func foundOrResume(ctx context.Context, dir *dataDir, cfg devConfig, folder fs.FS, now clock.Clock) (*cityState, *city.City, error) {
	var wanted *city.City
	if folder != nil {
		var err error
		if wanted, err = city.Load(folder); err != nil {
			return nil, nil, fmt.Errorf("city folder %s:\n%w", cfg.City, err)
		}
	}
	state, err := dir.loadState()
	if err != nil {
		return nil, nil, err
	}
	if state != nil && !cfg.Fresh {
		plan, err := resume(dir, cfg, state, wanted)
		return state, plan, err
	}
	state, err = found(cfg, wanted, now)
	if err != nil {
		return nil, nil, err
	}
	if cfg.DatabaseURL != "" {
		// Before anything is emptied: a database that is not ours refuses the whole start.
		if err := claimDatabase(ctx, cfg.DatabaseURL, state.Instance, cfg.Fresh); err != nil {
			return nil, nil, err
		}
	}
	if cfg.Fresh {
		if err := dir.empty(); err != nil {
			return nil, nil, err
		}
	}
	if err := dir.keepFolder(folder); err != nil {
		return nil, nil, err
	}
	wanted.Shift(state.Weeks)
	return state, wanted, dir.saveState(state)
}

// resume takes the city up as it was founded. A flag that was given must agree.
func resume(dir *dataDir, cfg devConfig, state *cityState, wanted *city.City) (*city.City, error) {
	if cfg.CitySet && wanted.Digest() != state.Digest {
		return nil, refuse("CityMismatch", "%s holds another city than %s; --fresh empties it", dir.path, cfg.City)
	}
	if cfg.CalendarSet && cfg.Calendar != state.Calendar {
		return nil, refuse("CalendarMismatch", "this city was founded with --calendar %s; its epoch does not move", state.Calendar)
	}
	if cfg.PortSet && cfg.PortBase != 0 && cfg.PortBase != state.PortBase {
		return nil, refuse("AddressMismatch", "this city's addresses begin at port %d and stand in its DID documents", state.PortBase)
	}
	if cfg.PLCURL != "" && cfg.PLCURL != state.PLCURL {
		return nil, refuse("AddressMismatch", "this city's DIDs are not in the directory %s", cfg.PLCURL)
	}
	if cfg.SecondPDS && !state.SecondPDS {
		return nil, refuse("HostMismatch", "this city was founded on one PDS, and its accounts do not move; --fresh founds it anew")
	}
	if cfg.WitnessSet && cfg.Witnesses != state.Witnesses {
		return nil, refuse("WitnessMismatch", "this city was founded with %d witnesses, whose keys stand in its log; --fresh founds it anew", state.Witnesses)
	}
	plan, err := city.Load(os.DirFS(dir.file(folderCopy)))
	if err != nil {
		return nil, fmt.Errorf("the kept city folder: %w", err)
	}
	plan.Shift(state.Weeks)
	return plan, nil
}

// found decides everything about a new city that must be the same at every later start.
func found(cfg devConfig, plan *city.City, now clock.Clock) (*cityState, error) {
	at := now.Now().Truncate(time.Millisecond)
	state := &cityState{
		Version: stateVersion, Instance: randomHex(16), Digest: plan.Digest(), Calendar: cfg.Calendar,
		PortBase: cfg.PortBase, PLCURL: cfg.PLCURL, FoundedAt: at,
		Databases: cfg.Separate, SecondPDS: cfg.SecondPDS, Witnesses: cfg.Witnesses,
	}
	if cfg.Calendar == calendarNow {
		state.Weeks = plan.Weeks(at)
	}
	add := func(id, handle string, roles ...string) {
		state.Accounts = append(state.Accounts, stateAccount{ID: id, Handle: handle + handleDomain, Password: randomHex(16), Roles: roles})
	}
	for _, o := range plan.Organizations {
		add(o.ID, o.Handle, o.Roles...)
	}
	add(idCity, city.HandleCity, roleCity)
	add(idLedger, city.HandleLedger, roleLedger)
	if state.SecondPDS {
		for _, role := range []string{city.RoleIssuer, city.RoleRedeemer} {
			if a := lastWith(state.Accounts, role); a != nil {
				a.Second = true
			}
		}
	}
	return state, nil
}

// lastWith is the last account with a role, nil where there is none.
func lastWith(accounts []stateAccount, role string) *stateAccount {
	for i := range slices.Backward(accounts) {
		if slices.Contains(accounts[i].Roles, role) {
			return &accounts[i]
		}
	}
	return nil
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}
