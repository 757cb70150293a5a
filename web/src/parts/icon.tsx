// Line icons, drawn on a grid of 20.

const PATHS = {
  cluster: "M4 4h5v5H4zM11 11h5v5h-5zM9 6.5h4.5V11M6.5 9v4.5H11",
  requests: "M4 5.5h12M4 10h8M4 14.5h10",
  charts: "M3.5 16.5h13M4.5 12l3.5-4 3 2.5 5-6",
  models: "M10 3l6.5 3.5v7L10 17l-6.5-3.5v-7zM3.5 6.5L10 10l6.5-3.5M10 10v7",
  chat: "M3.5 4.5h13v9H9l-3.5 3v-3h-2z",
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5L5 15",
  stop: "M5.5 5.5h9v9h-9z",
  send: "M10 16V4.5M5 9l5-5 5 5",
  menu: "M3.5 5.5h13M3.5 10h13M3.5 14.5h13",
  sliders: "M4 6h7M15 6h1M13 4v4M4 14h1M9 14h7M7 12v4",
  copy: "M7 7V3.5h9.5V13H13M3.5 7H13v9.5H3.5z",
  again: "M15.5 8A6 6 0 1 0 16 11.5M16 4v4h-4",
  key: "M8.5 11.5a3.5 3.5 0 1 1 1-1l6.5 6M13.5 14l1.5-1.5",
  pin: "M7 3.5h6M8 3.5v5L5.5 12h9L12 8.5v-5M10 12v5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
