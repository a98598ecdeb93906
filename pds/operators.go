package pds

import (
	"context"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/secret"
)

// firstPasswordBytes make 128 random bits: nobody guesses the password with which an operator signs in first.
const firstPasswordBytes = 16

// MaxOperatorToken is the longest life of an operator's token.
const MaxOperatorToken = 400 * 24 * time.Hour

// commanded writes down what was done by a command, with the database's own address: by whoever runs the machine.
func commanded(ctx context.Context, tx pgx.Tx, what, detail string, did *syntax.DID) error {
	const note = `insert into operator_log (at, operator, method, did, detail, outcome) values (now(), $1, $2, $3, $4, 'done')`
	if _, err := tx.Exec(ctx, note, bootstrapOperator, "command "+what, did, detail); err != nil {
		return fmt.Errorf("write down %s: %w", what, err)
	}
	return nil
}

// AddOperator names a person who runs the server, and answers with the password for the first sign-in. A name that was given stays its
// person's, since the log speaks of it.
func AddOperator(ctx context.Context, pool *pgxpool.Pool, name string, role Role, now time.Time) (password string, err error) {
	if !operatorName.MatchString(name) || name == bootstrapOperator {
		return "", fmt.Errorf("operator %q: a name has 2 to 32 small letters, digits and hyphens and is not %s", name, bootstrapOperator)
	}
	if roleRank[role] == 0 {
		return "", fmt.Errorf("role %q: there are %s, %s and %s", role, RoleAdministrator, RoleModerator, RoleReader)
	}
	password = randomID(firstPasswordBytes)
	hash, err := secret.NewHasher(Config{}.withDefaults().Argon2).Hash(ctx, password)
	if err != nil {
		return "", err
	}
	return password, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		const add = `insert into operator (name, role, password, created) values ($1, $2, $3, $4) on conflict do nothing`
		tag, err := tx.Exec(ctx, add, name, role, hash, now)
		if err != nil {
			return fmt.Errorf("add operator %s: %w", name, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("operator %s is there already", name)
		}
		return commanded(ctx, tx, "operator add", name+" "+string(role), nil)
	})
}

// DisableOperator keeps an operator out at once: signed in, by token, and by password.
func DisableOperator(ctx context.Context, pool *pgxpool.Pool, name string, now time.Time) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `update operator set disabled = coalesce(disabled, $2) where name = $1`, name, now)
		if err != nil {
			return fmt.Errorf("disable operator %s: %w", name, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("there is no operator %s", name)
		}
		for _, table := range []string{"operator_token", "operator_device"} {
			if _, err := tx.Exec(ctx, `delete from `+table+` where operator = $1`, name); err != nil {
				return fmt.Errorf("disable operator %s: %w", name, err)
			}
		}
		return commanded(ctx, tx, "operator disable", name, nil)
	})
}

// OperatorToken makes what a program gives by Basic in place of an operator's password.
func OperatorToken(ctx context.Context, pool *pgxpool.Pool, name string, now time.Time, life time.Duration) (string, error) {
	if life <= 0 || life > MaxOperatorToken {
		return "", fmt.Errorf("a token is good for %s at most, not %s", MaxOperatorToken, life)
	}
	token := randomID(20)
	return token, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		const add = `
			insert into operator_token (hash, operator, created, expires)
			select $1, name, $3, $4 from operator where name = $2 and disabled is null`
		tag, err := tx.Exec(ctx, add, tokenHash(token), name, now, now.Add(life))
		if err != nil {
			return fmt.Errorf("token of operator %s: %w", name, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("there is no operator %s who is let in", name)
		}
		return commanded(ctx, tx, "operator token", name, nil)
	})
}

// Operators lists those who run the server, by name.
func Operators(ctx context.Context, pool *pgxpool.Pool) ([]Operator, error) {
	rows, err := pool.Query(ctx, `select name, role, created, disabled from operator order by name`)
	if err != nil {
		return nil, fmt.Errorf("list operators: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Operator])
	if err != nil {
		return nil, fmt.Errorf("list operators: %w", err)
	}
	return list, nil
}
