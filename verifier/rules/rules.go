// Package rules lets a reference set add conditions of its own in CEL (Common
// Expression Language) over the facts of an appraisal.
//
// A rule can only lower trust: one that is false, that fails, that costs too
// much or that speaks of what is not there is a finding. Expressions are typed
// and checked when the set is read, know no time, no randomness and no outside,
// and have a bounded cost, so the same facts always give the same answer. The
// version of the library and the cost limit belong to the rule version.
package rules

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/ext"
)

// Limits of one expression: length in bytes, cost in CEL's units.
const (
	MaxLength = 4096
	costLimit = 1_000_000
)

// Facts is what an expression can speak of. Digests are hexadecimal.
type Facts struct {
	Node       Node             `cel:"node" json:"node"`
	TPM        TPM              `cel:"tpm" json:"tpm"`
	SecureBoot State            `cel:"secure_boot" json:"secure_boot"`
	PCRs       map[int64]string `cel:"pcrs" json:"pcrs"`     // proven values, SHA-256 bank
	Events     []Event          `cel:"events" json:"events"` // of the boot log, in order
	IMA        IMA              `cel:"ima" json:"ima"`
	Boot       Boot             `cel:"boot" json:"boot"` // what those events prove
	// Unproven are members of boot whose PCRs the quote does not prove. What is
	// absent from them means nothing, so an expression that needs one has no answer.
	Unproven []string `json:"unproven,omitempty"`
}

// Node is what the operator says of the node.
type Node struct {
	Class string `cel:"class" json:"class"`
}

// TPM is what its quote and certificate say.
type TPM struct {
	Vendor       string `cel:"vendor" json:"vendor"`
	Model        string `cel:"model" json:"model"`
	Version      string `cel:"version" json:"version"`
	Firmware     uint64 `cel:"firmware" json:"firmware"` // firmwareVersion of the quote
	ResetCount   int64  `cel:"reset_count" json:"reset_count"`
	RestartCount int64  `cel:"restart_count" json:"restart_count"`
}

// State is the Secure Boot state as measured.
type State struct {
	Known   bool `cel:"known" json:"known"`
	Enabled bool `cel:"enabled" json:"enabled"`
}

// Event is a measured event. Text is empty unless it hashes to the digest.
type Event struct {
	Index  int64  `cel:"index" json:"index"`
	PCR    int64  `cel:"pcr" json:"pcr"`
	Digest string `cel:"digest" json:"digest"`
	Text   string `cel:"text" json:"text"`
}

// IMA is the proven part of the IMA list.
type IMA struct {
	Entries    int64 `cel:"entries" json:"entries"`
	Violations int64 `cel:"violations" json:"violations"`
}

// Rule is a compiled expression.
type Rule struct{ program cel.Program }

// Compile checks an expression; its errors say line and column. It must be of
// type bool: true keeps trust as it is.
func Compile(expression string) (*Rule, error) {
	if len(expression) > MaxLength {
		return nil, fmt.Errorf("compiling rule: %d bytes, at most %d are allowed", len(expression), MaxLength)
	}
	e, err := environment()
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	ast, issues := e.Compile(expression)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("compiling rule: line %d, column %d: %s", first.Location.Line(), first.Location.Column()+1, first.Message)
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("compiling rule: line 1, column 1: expected a condition (bool), found %s", ast.OutputType())
	}
	p, err := e.Program(ast, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize, cel.OptPartialEval))
	if err != nil {
		return nil, fmt.Errorf("compiling rule: %w", err)
	}
	return &Rule{p}, nil
}

// environment has the standard functions without those that know time: their
// time zones would be read from the machine.
func environment() (*cel.Env, error) {
	return cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(&env.LibrarySubset{ExcludeFunctions: timeFunctions()})),
		ext.NativeTypes(reflect.TypeFor[Facts](), reflect.TypeFor[Node](), reflect.TypeFor[TPM](), reflect.TypeFor[State](), reflect.TypeFor[Event](), reflect.TypeFor[IMA](), reflect.TypeFor[Boot](), ext.ParseStructTags(true)),
		cel.Variable("node", cel.ObjectType("rules.Node")),
		cel.Variable("tpm", cel.ObjectType("rules.TPM")),
		cel.Variable("secure_boot", cel.ObjectType("rules.State")),
		cel.Variable("pcrs", cel.MapType(cel.IntType, cel.StringType)),
		cel.Variable("events", cel.ListType(cel.ObjectType("rules.Event"))),
		cel.Variable("ima", cel.ObjectType("rules.IMA")),
		cel.Variable("boot", cel.ObjectType("rules.Boot")),
	)
}

func timeFunctions() []*env.Function {
	var out []*env.Function
	for _, name := range strings.Fields(`timestamp duration getFullYear getMonth getDayOfYear getDayOfMonth getDate getDayOfWeek
		getHours getMinutes getSeconds getMilliseconds`) {
		out = append(out, &env.Function{Name: name})
	}
	return out
}

// Holds evaluates the rule. An error means that it has no answer for these
// facts: a denial, like false.
func (r *Rule) Holds(f *Facts) (bool, error) {
	var unproven []*cel.AttributePatternType
	for _, member := range f.Unproven {
		unproven = append(unproven, cel.AttributePattern("boot").QualString(member))
	}
	known, err := cel.PartialVars(map[string]any{
		"node": f.Node, "tpm": f.TPM, "secure_boot": f.SecureBoot, "pcrs": f.PCRs, "events": f.Events, "ima": f.IMA, "boot": f.Boot,
	}, unproven...)
	if err != nil {
		return false, err
	}
	v, _, err := r.program.Eval(known)
	if err != nil {
		return false, err
	}
	ok, is := v.Value().(bool)
	if !is {
		return false, errors.New("what it speaks of is not proven")
	}
	return ok, nil
}
