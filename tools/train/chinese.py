"""Simple modern Chinese, written for this project: a seeded generator of short
sentences, questions and answers. The old poems give verse; this gives plain words.
"""

import random

PEOPLE = ["小明", "小红", "小华", "小美", "小雨", "小云", "小兰", "爸爸", "妈妈", "爷爷", "奶奶", "老师", "哥哥", "姐姐", "弟弟", "妹妹"]
PLACES = ["公园", "学校", "家里", "山上", "河边", "海边", "花园", "森林", "城里", "田里", "图书馆", "火车站"]
ANIMALS = ["小猫", "小狗", "小鸟", "小鱼", "小马", "白兔", "大象", "猴子", "老虎", "鸭子", "青蛙", "蝴蝶"]
FOODS = ["苹果", "米饭", "面条", "饺子", "西瓜", "牛奶", "面包", "鸡蛋", "水果", "茶"]
THINGS = ["一本书", "一朵花", "一个球", "一张画", "一封信", "一盏灯", "一把伞", "一顶帽子", "一个风筝", "一只小船"]
COLOURS = ["红", "黄", "蓝", "绿", "白", "黑"]
WEATHER = ["天气很好", "下雨了", "下雪了", "太阳出来了", "风很大", "月亮很圆"]
FEEL = ["很高兴", "很开心", "有一点累", "很安静", "非常喜欢", "笑了"]
FACTS = [
    ("中国的全名是什么？", "中国的全名是中华人民共和国。"),
    ("中华人民共和国的首都是哪里？", "中华人民共和国的首都是北京。"),
    ("中华人民共和国是哪一年成立的？", "中华人民共和国是一九四九年成立的。"),
    ("中国最长的河是什么河？", "中国最长的河是长江。"),
    ("一年有几个季节？", "一年有四个季节：春天、夏天、秋天和冬天。"),
    ("一个星期有几天？", "一个星期有七天。"),
    ("太阳从哪边升起？", "太阳从东边升起。"),
    ("你好！", "你好！我很高兴见到你。"),
    ("谢谢你。", "不客气。"),
    ("你叫什么名字？", "我是一个很小的语言模型，没有名字。"),
    ("请写一首诗。", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
]


def sentence(rng):
    a, b = rng.sample(PEOPLE, 2)
    place, animal = rng.choice(PLACES), rng.choice(ANIMALS)
    food, thing, colour = rng.choice(FOODS), rng.choice(THINGS), rng.choice(COLOURS)
    count, thing = thing[:2], thing[2:]
    return rng.choice([
        f"今天{rng.choice(WEATHER)}，{a}和{b}去{place}玩。",
        f"{a}在{place}看见一只{animal}。",
        f"{animal}在{place}跑来跑去，{a}{rng.choice(FEEL)}。",
        f"{a}喜欢吃{food}，{b}喜欢吃{rng.choice(FOODS)}。",
        f"{a}有{count}{colour}色的{thing}。",
        f"{b}说：“{a}，你好！我们一起去{place}吧。”",
        f"{a}问：“这是什么？”{b}说：“这是{count}{thing}。”",
        f"晚上，{a}和{b}回家了，大家都{rng.choice(FEEL)}。",
        f"春天来了，{place}的花开了，{colour}色的花很好看。",
        f"{a}给{b}{count}{thing}，{b}说：“谢谢！”",
    ])


def passage(rng):
    return "".join(sentence(rng) for _ in range(rng.randint(3, 8)))


def question(rng):
    """A question and its answer, for the dialogues."""
    if rng.random() < 0.6:
        return rng.choice(FACTS)
    a, thing, colour = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(COLOURS)
    count, thing = thing[:2], thing[2:]
    return (f"{a}有{count}{colour}色的{thing}。{a}的{thing}是什么颜色的？", f"{a}的{thing}是{colour}色的。")


if __name__ == "__main__":
    r = random.Random(1)
    for _ in range(3):
        print(passage(r))
        print(*question(r), sep="\n")
