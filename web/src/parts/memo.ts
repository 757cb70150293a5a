// A component that is drawn again only when what it is given has changed.

import { Component, type ComponentChild, type FunctionComponent, h } from "preact";

export function memo<P extends object>(
  draw: (props: P) => ComponentChild,
  same: (one: P, other: P) => boolean = shallow,
): FunctionComponent<P> {
  class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      return !same(this.props, next);
    }
    override render(props: P): ComponentChild {
      return draw(props);
    }
  }
  return (props: P) => h(Memo, props);
}

function shallow<P extends object>(one: P, other: P): boolean {
  const keys = Object.keys(other) as (keyof P)[];
  return keys.length === Object.keys(one).length && keys.every((key) => one[key] === other[key]);
}
