// Package kube holds Writ's bearer tokens against kube-apiserver's own authenticator;
// tests only.
package kube
