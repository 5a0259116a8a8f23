package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// openAPI describes routes as OpenAPI 3.1.0. It is made from the table that is
// served, so it cannot say anything else.
func openAPI(version string, routes []route) ([]byte, error) {
	paths := map[string]map[string]any{}
	d := described{schemas: map[string]any{}}
	for _, r := range routes {
		var parts []string
		var params []any
		for _, p := range strings.Split(r.path, "/") {
			if name, ok := strings.CutPrefix(p, ":"); ok || p == "*" {
				if p == "*" {
					name = "path"
				}
				params = append(params, map[string]any{"name": name, "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
				p = "{" + name + "}"
			}
			parts = append(parts, p)
		}
		for _, name := range strings.Fields(r.query) {
			if name != "*" {
				params = append(params, map[string]any{"name": name, "in": "query", "schema": map[string]any{"type": "string"}})
			}
		}
		path := strings.Join(parts, "/")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		op := d.operation(r)
		if params != nil {
			op["parameters"] = params
		}
		paths[path][strings.ToLower(r.method)] = op
	}
	d.schemas["Problem"] = problemSchema
	doc := map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "Writ verifier", "version": version, "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"paths":   paths,
		"components": map[string]any{"schemas": d.schemas, "securitySchemes": map[string]any{
			"operator": map[string]any{"type": "mutualTLS", "description": "Client certificate of an operator of the domain."},
			"session":  map[string]any{"type": "apiKey", "in": "cookie", "name": sessionCookie, "description": "Session of an operator's browser, with its " + csrfHeader + " header."},
			"node":     map[string]any{"type": "http", "scheme": "DPoP", "description": "Base token and a proof by its key (RFC 9449)."},
		}},
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("describing the API: %w", err)
	}
	return b, nil
}

var problemSchema = map[string]any{
	"type": "object", "description": "RFC 9457", "required": []string{"type", "title", "status", "instance"},
	"properties": map[string]any{
		"type": map[string]any{"type": "string", "format": "uri"}, "title": map[string]any{"type": "string"}, "status": map[string]any{"type": "integer"},
		"detail": map[string]any{"type": "string"}, "instance": map[string]any{"type": "string", "description": "id of the request"},
	},
}

type described struct{ schemas map[string]any }

func (d described) operation(r route) map[string]any {
	good, status := map[string]any{"description": r.about}, http.StatusOK
	if r.out == "" {
		status = http.StatusNoContent
	} else {
		good["content"] = map[string]any{media(r.out): map[string]any{"schema": d.body(r.gives)}}
	}
	problem := map[string]any{"description": "A problem (RFC 9457).", "content": map[string]any{"application/problem+json": map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/Problem"}}}}
	op := map[string]any{"operationId": r.name, "summary": r.about, "responses": map[string]any{strconv.Itoa(status): good, "default": problem}}
	switch r.auth {
	case operator:
		security := []any{map[string]any{"operator": []string{}}}
		if r.browser {
			security = append(security, map[string]any{"session": []string{}})
		}
		op["security"] = security
		op["x-writ-roles"] = r.roles
	case holder:
		op["security"] = []any{map[string]any{"operator": []string{}}, map[string]any{"node": []string{}}}
		op["x-writ-roles"] = r.roles
	case nodeKey, endedKey:
		op["security"] = []any{map[string]any{"node": []string{}}}
	default:
		op["security"] = []any{} // none, or inside the body
	}
	op["x-writ-auth"] = r.auth.String()
	if r.in != "" {
		op["requestBody"] = map[string]any{"required": true, "content": map[string]any{r.in: map[string]any{"schema": d.body(r.takes)}}}
	}
	return op
}

func media(contentType string) string {
	m, _, _ := strings.Cut(contentType, ";")
	return m
}

// body is the schema of a message, or of anything when the table has none.
func (d described) body(v any) any {
	if v == nil {
		return map[string]any{}
	}
	return d.schema(reflect.TypeOf(v))
}

// schema describes a Go type as encoding/json writes it.
func (d described) schema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return map[string]any{}
	case t == reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Struct:
		if d.schemas[t.Name()] == nil {
			d.schemas[t.Name()] = true // it may contain itself
			d.schemas[t.Name()] = d.object(t)
		}
		return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
	}
	return map[string]any{"type": "integer"}
}

func (d described) object(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		name, rest, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		properties[name] = d.schema(t.Field(i).Type)
		if rest != "omitempty" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}
