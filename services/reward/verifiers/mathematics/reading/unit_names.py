"""Tables: the names of units, what they measure, and words behind a number that are none."""

from fractions import Fraction

# canonical name <- spellings; a name of one letter counts only inside \text{}
UNITS = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "inch": "in inch inche",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile",
    "mg": "mg milligram",
    "g": "g gram",
    "kg": "kg kilogram",
    "lb": "lb pound",
    "oz": "oz ounce",
    "ton": "ton tonne",
    "ms": "ms millisecond",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "dollar": "dollar usd buck",
    "cent": "cent",
    "euro": "euro eur",
    "percent": "percent % pct",
    "degree": "degree deg",
    "celsius": "celsius c",
    "fahrenheit": "fahrenheit f",
    "radian": "radian rad",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "mile/h": "mph",
    "km/h": "kph kmh kmph",
    "unit": "unit",
    "newton": "newton",
    "joule": "joule",
    "watt": "watt",
    "hertz": "hz hertz",
}
CANONICAL = {spelling: name for name, spellings in UNITS.items() for spelling in spellings.split()}
UNITS_IN_IDEOGRAPHS = {
    "mm": "毫米",
    "cm": "厘米 公分 センチ センチメートル",
    "m": "米 公尺 メートル 미터",
    "km": "千米 公里 キロメートル",
    "g": "克 グラム 그램",
    "kg": "千克 公斤 キログラム",
    "ton": "吨 噸",
    "l": "升",
    "ml": "毫升",
    "s": "秒 秒钟 초",
    "min": "分钟 分間",
    "h": "小时 小時 時間 시간",
    "day": "天 日",
    "week": "周 星期 週間 주",
    "month": "个月 月 ヶ月 개월",
    "year": "年",
    "yuan": "元",
    "yen": "円",
    "won": "원",
    "degree": "度",
    "mm2": "平方毫米",
    "cm2": "平方厘米",
    "m2": "平方米",
    "km2": "平方千米 平方公里",
    "cm3": "立方厘米",
    "m3": "立方米",
    # what is counted, without a meaning of its own
    "": """
        个 個 只 隻 人 名 位 次 条 條 张 張 本 支 枝 棵 块 塊 件 头 頭 种 種 组 組 间 間 辆 輛 台 杯 瓶 页 頁 题
        題 分 岁 歲 根 颗 顆 袋 盒 箱 排 行 列 朵 把 套 层 層 户 戶 步 站 道 枚 匹 回 歳 冊
        人分 개 명 권 마리 번 장 살 대 자루
    """,
}
CANONICAL_OF_IDEOGRAPHS = {word: name for name, words in UNITS_IN_IDEOGRAPHS.items() for word in words.split()}
# what a unit measures, and how many of the first unit it is
MEASURES: dict[str, dict[str, int | str]] = {
    "length": {
        "mm": 1,
        "cm": 10,
        "m": 1000,
        "km": 10**6,
        "inch": "25.4",
        "foot": "304.8",
        "yard": "914.4",
        "mile": 1609344,
    },
    "time": {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "day": 86_400_000, "week": 604_800_000},
    "mass": {"mg": 1, "g": 1000, "kg": 10**6, "ton": 10**9},
    "volume": {"ml": 1, "l": 1000},
}
SCALES = {unit: (measure, Fraction(size)) for measure, units in MEASURES.items() for unit, size in units.items()}
HALVES_OF_THE_DAY = {"am": "am", "pm": "pm"}  # only after a time
TEMPERATURES = frozenset(("degree", "degreecelsius", "degreefahrenheit", "celsius", "fahrenheit"))
# words that say something of the answer instead of counting things
WORDS_OF_JUDGEMENT = """
    is isn't are cannot impossible
    or and not no nor none nope neither never wrong incorrect false either maybe but to if unless except
    undefined infinite infinity negative at least most less more fewer greater than plus minus over under
    above below divided multiplied
    mod modulo choose factorial power half halves thirds fourths fifths sixths sevenths eighths ninths tenths
    elevenths twelfths twentieths hundredths thousandths millionths billionths dozen dozens kilo mega giga tera milli
    micro nano pico when whenever where otherwise while provided approximately about roughly nearly almost
    double triple quadruple twice thrice tens pi sqrt log ln exp sin cos tan
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty fifty hundred
    или не нет больше меньше более менее примерно около почти кроме
    o más menos mayor menor aproximadamente casi ou pas plus moins environ sauf oder nicht mehr weniger etwa kein
    não mais più meno circa
"""
JUDGEMENTS = frozenset(WORDS_OF_JUDGEMENT.split())
